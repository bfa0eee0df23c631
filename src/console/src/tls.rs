//! The certificate of the TLS port: the operator's, or one of our own made once.

use crate::secrets;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, crypto};
use std::io::{Error, Result};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Reads certificate chain and key (PEM); TLS 1.2 and 1.3.
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let what =
        |path: &Path, error: &dyn std::fmt::Display| Error::other(format!("{}: {error}", path.display()));
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| what(certificate, &e))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| what(key, &e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| what(certificate, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// SHA-256 of the first certificate of a file (PEM), as browsers show it: `4A:7F:…`.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn fingerprint(certificate: &Path) -> Result<String> {
    let first = CertificateDer::from_pem_file(certificate).map_err(Error::other)?;
    let bytes: Vec<String> =
        digest(&SHA256, &first).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(bytes.join(":"))
}

/// Makes certificate and key (PEM, 0600) when one of them is missing: for this node's name, the loopback and the address
/// listened on.
///
/// # Errors
/// They cannot be made or written.
pub fn make(certificate: &Path, key: &Path, node: &str, listen: IpAddr) -> Result<()> {
    if certificate.is_file() && key.is_file() {
        return Ok(());
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let is_name = node.len() <= 63 && node.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    names.extend(Some(node.to_owned()).filter(|name| is_name && !name.is_empty()));
    names.extend(Some(listen.to_string()).filter(|ip| !listen.is_unspecified() && !names.contains(ip)));
    let made = rcgen::generate_simple_self_signed(names).map_err(Error::other)?;
    // The key first: a certificate that is there has its key.
    secrets::write(key, made.signing_key.serialize_pem().trim_end())?;
    secrets::write(certificate, made.cert.pem().trim_end())
}
