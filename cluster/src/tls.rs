//! TLS 1.3 between nodes: both sides show a self-signed certificate, and what counts is the pin of its key.
//!
//! A client demands one pin. A server takes any key in the handshake, since a node that joins is known to nobody yet;
//! the network layer closes the connection before it reads a frame unless the key is pinned or the peer asked for the
//! join protocol.

use crate::identity::{Identity, spki_pin};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use std::sync::Arc;

/// ALPN of members.
pub const ALPN_PEER: &[u8] = b"elpis-peer/1";
/// ALPN of a node that joins.
pub const ALPN_JOIN: &[u8] = b"elpis-join/1";

/// Takes every well-formed key, or only one.
#[derive(Debug)]
struct Pin {
    wanted: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pin {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let pin =
            spki_pin(certificate).ok_or(Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        match &self.wanted {
            Some(wanted) if *wanted != pin => Err(Error::General(format!(
                "the peer's key has the pin {pin}, expected {wanted}: this address belongs to another machine now"
            ))),
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not used between nodes".to_owned()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not used between nodes".to_owned()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn pin(wanted: Option<&str>, provider: &CryptoProvider) -> Arc<Pin> {
    Arc::new(Pin {
        wanted: wanted.map(str::to_owned),
        algorithms: provider.signature_verification_algorithms,
    })
}

/// Configuration of a connection to the node with this pin; `None` only for a join, which proves itself otherwise.
///
/// # Errors
/// When rustls refuses the key.
pub fn client(identity: &Identity, wanted: Option<&str>, alpn: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier = pin(wanted, &provider);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Configuration of the cluster port.
///
/// # Errors
/// When rustls refuses the key.
pub fn server(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let verifier = pin(None, &provider);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_PEER.to_vec(), ALPN_JOIN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
