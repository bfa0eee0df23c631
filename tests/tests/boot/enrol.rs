//! A firmware's variables with a certificate of ours in place of the vendors': Secure Boot is on, and trusts it alone.
//!
//! The store is EDK2's: a volume header, a store header, then variables one after the other, each aligned to four bytes.

use std::path::Path;

/// Of EFI_VARIABLE_AUTHENTICATION_2 and of plain variables that are kept.
const AUTHENTICATED: u32 = 0x27;
const KEPT: u32 = 0x03;
const STORE_HEADER: usize = 28;

/// GUIDs as they lie in memory.
const GLOBAL: &str = "61dfe48bca93d211aa0d00e098032b8c";
const SECURITY: &str = "cbb219d73a3d9645a3bcdad00e67656f";
const SECURE_BOOT_ENABLE: &str = "c70ba3f008af564599c4001009c93a44";
const CUSTOM_MODE: &str = "0cec76c028709943a07271ee5c448b9f";
const X509: &str = "a159c0a5e494a74a87b5ab155c2bf072";
const OWNER: &str = "e1b15000000040008000000000000003";

/// Writes such variables; `blank`: a store without any, `certificate`: DER.
pub(crate) fn variables(blank: &Path, certificate: &[u8], to: &Path) {
    let mut store = std::fs::read(blank).unwrap();
    let volume_header = usize::from(u16::from_le_bytes([store[0x30], store[0x31]]));
    let mut at = (volume_header + STORE_HEADER).next_multiple_of(4);
    assert_eq!(store[at..at + 4], [0xff; 4], "{} holds variables already", blank.display());
    let list = signature_list(certificate);
    for (name, guid, attributes, data) in [
        ("CustomMode", CUSTOM_MODE, KEPT, &[0][..]),
        ("db", SECURITY, AUTHENTICATED, &list),
        ("KEK", GLOBAL, AUTHENTICATED, &list),
        ("PK", GLOBAL, AUTHENTICATED, &list),
        ("SecureBootEnable", SECURE_BOOT_ENABLE, KEPT, &[1]),
    ] {
        let variable = variable(name, guid, attributes, data);
        store[at..at + variable.len()].copy_from_slice(&variable);
        at = (at + variable.len()).next_multiple_of(4);
    }
    std::fs::write(to, store).unwrap();
}

fn variable(name: &str, guid: &str, attributes: u32, data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    // Start, "added", reserved; count, key index and (for authenticated ones) a time of signing.
    let mut bytes = vec![0xaa, 0x55, 0x3f, 0];
    bytes.extend(attributes.to_le_bytes());
    bytes.extend([0; 8]);
    let mut time = [0; 16];
    if attributes == AUTHENTICATED {
        time[..4].copy_from_slice(&[0xea, 0x07, 1, 1]);
    }
    bytes.extend(time);
    bytes.extend([0; 4]);
    bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    bytes.extend(hex(guid));
    bytes.extend(name);
    bytes.extend(data);
    bytes
}

fn signature_list(certificate: &[u8]) -> Vec<u8> {
    let signature = u32::try_from(16 + certificate.len()).unwrap();
    let mut bytes = hex(X509);
    bytes.extend((28 + signature).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(signature.to_le_bytes());
    bytes.extend(hex(OWNER));
    bytes.extend(certificate);
    bytes
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
