//! A small tree of elements, built within limits.

use crate::{Limits, XmlError};
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart, Event};
use std::borrow::Cow;

/// An element: attributes in order, text joined around comments, children in order. What the document says in one
/// piece is not copied.
#[derive(Debug, Default)]
pub(crate) struct Element<'t> {
    pub(crate) name: Cow<'t, str>,
    pub(crate) attributes: Vec<(Cow<'t, str>, Cow<'t, str>)>,
    pub(crate) text: Cow<'t, str>,
    pub(crate) children: Vec<Element<'t>>,
}

/// Room made at the first child: a module's usual tags.
const CHILDREN: usize = 8;

impl<'t> Element<'t> {
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    pub(crate) fn children_named<'a, 'n>(
        &'a self,
        name: &'n str,
    ) -> impl Iterator<Item = &'a Element<'t>> + use<'a, 'n, 't> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Text of the first child of this name.
    pub(crate) fn child_text(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| &*child.text)
    }
}

fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

struct Builder<'t> {
    text: &'t str,
    limits: &'t Limits,
    open: Vec<Element<'t>>,
    root: Option<Element<'t>>,
    elements: usize,
    /// Position up to which lines are counted, and the line there.
    counted: (usize, usize),
}

/// Reads the document; its one root element.
pub(crate) fn read<'t>(text: &'t str, limits: &'t Limits) -> Result<Element<'t>, XmlError> {
    // Most files are plain ASCII: one pass without a branch a character.
    let odd = |byte: u8| (byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')) | (byte >= 0x80);
    let any_odd = text.bytes().fold(false, |any, byte| any | odd(byte));
    if any_odd && let Some((at, c)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        let line = text[..at].matches('\n').count() + 1;
        return Err(XmlError::BadCharacter { line, code: u32::from(c) });
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_comments = true;
    let mut builder = Builder { text, limits, open: Vec::new(), root: None, elements: 0, counted: (0, 1) };
    loop {
        let event = reader.read_event();
        let at = usize::try_from(reader.buffer_position()).unwrap_or(text.len()).min(text.len());
        match event {
            Ok(Event::Eof) => return builder.finish(),
            Ok(event) => builder.take(event, at)?,
            Err(error) => return Err(builder.malformed(at, error.to_string())),
        }
    }
}

impl<'t> Builder<'t> {
    fn line(&mut self, at: usize) -> usize {
        let (from, line) = self.counted;
        let at = at.max(from);
        let bytes = self.text.as_bytes().get(from..at).unwrap_or_default();
        let lines = line + bytes.iter().filter(|b| **b == b'\n').count();
        self.counted = (at, lines);
        lines
    }

    fn malformed(&mut self, at: usize, reason: impl Into<String>) -> XmlError {
        XmlError::NotWellFormed { line: self.line(at), reason: reason.into() }
    }

    fn take(&mut self, event: Event<'_>, at: usize) -> Result<(), XmlError> {
        match event {
            Event::Start(start) => self.start(&start, at),
            Event::Empty(start) => {
                self.start(&start, at)?;
                self.end(at)
            }
            Event::End(_) => self.end(at),
            Event::Text(text) => {
                if text.contains("]]>") {
                    return Err(self.malformed(at, "\"]]>\" stands in a text"));
                }
                self.push(&text.xml10_content(), at)
            }
            Event::CData(text) => {
                if self.open.is_empty() {
                    return Err(self.malformed(at, "a CDATA section stands outside of the root element"));
                }
                self.push(&text.xml10_content(), at)
            }
            Event::GeneralRef(reference) => {
                let text = self.resolve(&reference, at)?;
                if self.open.is_empty() {
                    return Err(self.malformed(at, "a reference stands outside of the root element"));
                }
                self.push(text.encode_utf8(&mut [0; 4]), at)
            }
            Event::DocType(_) => Err(XmlError::Doctype { line: self.line(at) }),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) | Event::Eof => Ok(()),
        }
    }

    fn resolve(&mut self, reference: &BytesRef<'_>, at: usize) -> Result<char, XmlError> {
        let unknown = |line| XmlError::UnknownEntity { line, name: reference.chars().take(40).collect() };
        match reference.resolve_char_ref() {
            Ok(Some(c)) if allowed(c) => return Ok(c),
            Ok(Some(c)) => return Err(XmlError::BadCharacter { line: self.line(at), code: u32::from(c) }),
            Err(_) => return Err(unknown(self.line(at))),
            Ok(None) => {}
        }
        predefined(reference).ok_or_else(|| unknown(self.line(at)))
    }

    /// A piece of the document without a copy, where it is one.
    fn piece(&self, part: &str) -> Cow<'t, str> {
        let from = (part.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        match self.text.get(from..from.saturating_add(part.len())) {
            Some(piece) if piece.as_ptr() == part.as_ptr() => Cow::Borrowed(piece),
            _ => Cow::Owned(part.to_owned()),
        }
    }

    fn start(&mut self, start: &BytesStart<'_>, at: usize) -> Result<(), XmlError> {
        self.elements += 1;
        let limits = self.limits;
        for (found, limit, what) in [
            (self.open.len() + 1, limits.depth, "nested elements"),
            (self.elements, limits.elements, "elements"),
        ] {
            if found > limit {
                return Err(XmlError::Limit { line: self.line(at), what, limit });
            }
        }
        if self.root.is_some() && self.open.is_empty() {
            return Err(self.malformed(at, "a second root element begins"));
        }
        let mut element = Element { name: self.piece(start.name().0), ..Element::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| self.malformed(at, error.to_string()))?;
            if element.attributes.len() >= limits.attributes {
                return Err(XmlError::Limit {
                    line: self.line(at),
                    what: "attributes of one element",
                    limit: limits.attributes,
                });
            }
            if attribute.value.contains('<') {
                return Err(self.malformed(at, "\"<\" stands in an attribute"));
            }
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| self.malformed(at, error.to_string()))?;
            if let Some(c) = value.chars().find(|c| !allowed(*c)) {
                return Err(XmlError::BadCharacter { line: self.line(at), code: u32::from(c) });
            }
            let value = match value {
                Cow::Borrowed(value) => self.piece(value),
                Cow::Owned(value) => Cow::Owned(value),
            };
            element.attributes.push((self.piece(attribute.key.0), value));
        }
        self.open.push(element);
        Ok(())
    }

    fn end(&mut self, at: usize) -> Result<(), XmlError> {
        let Some(element) = self.open.pop() else {
            return Err(self.malformed(at, "an element ends that never began"));
        };
        match self.open.last_mut() {
            Some(parent) => {
                if parent.children.is_empty() {
                    parent.children.reserve(CHILDREN);
                }
                parent.children.push(element);
            }
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn push(&mut self, text: &str, at: usize) -> Result<(), XmlError> {
        let limit = self.limits.text;
        let piece = self.piece(text);
        match self.open.last_mut() {
            // Line breaks between children.
            Some(element) if !element.children.is_empty() && blank(text) && blank(&element.text) => {}
            Some(element) if element.text.is_empty() && text.len() <= limit => element.text = piece,
            Some(element) if element.text.len() + text.len() <= limit => element.text.to_mut().push_str(text),
            Some(_) => return Err(XmlError::Limit { line: self.line(at), what: "bytes of one text", limit }),
            None if text.trim().is_empty() => {}
            None => return Err(self.malformed(at, "text stands outside of the root element")),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Element<'t>, XmlError> {
        if let Some(element) = self.open.last() {
            let reason = format!("<{}> is not closed", element.name);
            return Err(self.malformed(self.text.len(), reason));
        }
        match self.root.take() {
            Some(root) => Ok(root),
            None => Err(self.malformed(self.text.len(), "there is no root element")),
        }
    }
}

fn blank(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_whitespace())
}

fn predefined(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}
