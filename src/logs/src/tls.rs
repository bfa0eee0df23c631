//! Whom the log is given to: a server whose certificate is of a known authority, or is one certain certificate.

use crate::Error;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as crypto, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// A log server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// TCP port; 6514 by RFC 5425.
    pub port: u16,
    /// SHA-256 of its certificate, 64 small hex digits: it and no other, whoever signed it. `None` = an authority that the
    /// machine knows has signed it for this host.
    pub sha256: Option<String>,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `authorities`: certificates that the machine trusts, PEM.
pub(crate) fn config(server: &Server, authorities: &Path) -> Result<Arc<ClientConfig>, Error> {
    let refused = |why: String| Error::Server { server: server.to_string(), why };
    let provider = Arc::new(crypto::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| refused(e.to_string()))?;
    let builder = match &server.sha256 {
        Some(sha256) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(One { sha256: sha256.clone(), provider })),
        None => {
            let mut roots = RootCertStore::empty();
            let read = CertificateDer::pem_file_iter(authorities).and_then(Iterator::collect);
            let read: Vec<CertificateDer<'static>> =
                read.map_err(|e| refused(format!("cannot read {}: {e}", authorities.display())))?;
            roots.add_parsable_certificates(read);
            builder.with_root_certificates(roots)
        }
    };
    Ok(Arc::new(builder.with_no_client_auth()))
}

pub(crate) fn name(server: &Server) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(server.host.clone())
        .map_err(|e| Error::Server { server: server.to_string(), why: e.to_string() })
}

/// One certificate and no other.
#[derive(Debug)]
struct One {
    sha256: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for One {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found: String =
            digest(&SHA256, certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        match found == self.sha256 {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General(format!(
                "its certificate is another one than was named: its SHA-256 is {found}"
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
