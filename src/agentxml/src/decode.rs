//! From bytes to text, by byte order mark or declaration.

use crate::{Limits, XmlError};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// Decodes a file strictly: no replacement characters, no guessing beyond mark and declaration.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<String, XmlError> {
    if bytes.len() > limits.bytes {
        return Err(XmlError::TooLarge { found: bytes.len(), limit: limits.bytes });
    }
    if bytes.is_empty() {
        return Err(XmlError::Empty);
    }
    let (encoding, body) = match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => (UTF_8, rest),
        [0xFF, 0xFE, rest @ ..] => (UTF_16LE, rest),
        [0xFE, 0xFF, rest @ ..] => (UTF_16BE, rest),
        [b'<', 0, ..] => (UTF_16LE, bytes),
        [0, b'<', ..] => (UTF_16BE, bytes),
        _ => (declared(bytes)?, bytes),
    };
    match encoding.decode_without_bom_handling_and_without_replacement(body) {
        Some(text) => Ok(text.into_owned()),
        None => Err(XmlError::BadBytes(encoding.name())),
    }
}

/// Encoding of the XML declaration; UTF-8 without one. A declared UTF-16 without a mark cannot be: we read bytes.
fn declared(bytes: &[u8]) -> Result<&'static Encoding, XmlError> {
    let head = &bytes[..bytes.len().min(256)];
    let Some(end) = head.windows(2).position(|pair| pair == b"?>").filter(|_| head.starts_with(b"<?xml"))
    else {
        return Ok(UTF_8);
    };
    let head = String::from_utf8_lossy(&head[..end]).into_owned();
    let Some(at) = head.find("encoding") else { return Ok(UTF_8) };
    let value = head[at + "encoding".len()..].trim_start().trim_start_matches('=').trim_start();
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Ok(UTF_8) };
    let label = value[1..].split(quote).next().unwrap_or_default().trim();
    match Encoding::for_label(label.as_bytes()) {
        Some(found) if found != UTF_16LE && found != UTF_16BE => Ok(found),
        _ => Err(XmlError::UnknownEncoding(label.chars().take(40).collect())),
    }
}
