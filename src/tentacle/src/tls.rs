//! TLS: towards agents with ordinary certificates, between nodes with pinned keys.

use crate::server::Cluster;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot use {path} for TLS: {why}; give a PEM file that this user may read")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Key and certificate do not fit, or the library refuses them.
    #[error("TLS set-up refused; check that key and certificate belong together")]
    Rustls(#[from] Error),
}

fn file_error(path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.to_owned(), why: why.to_string() }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| file_error(path, &e))
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

/// Towards agents: TLS 1.2 and 1.3; with a CA their certificate is required.
pub(crate) fn agents(cert: &Path, key: &Path, ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file_error(key, &e))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider());
            builder.with_client_cert_verifier(verifier.build().map_err(|e| file_error(ca, &e))?)
        }
    };
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}

/// Of the sending program: with a CA the server is verified, without one it is not (as the original does).
pub(crate) fn sender(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(Arc::new(match ca {
        Some(ca) => builder.with_root_certificates(roots(ca)?).with_no_client_auth(),
        None => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Pin::any())).with_no_client_auth()
        }
    }))
}

/// This node's key towards other nodes.
#[derive(Debug)]
pub(crate) struct NodeKey {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl NodeKey {
    /// From `node.key`, which the node agent made. The certificate only carries the key: it is made here.
    pub(crate) fn open(path: &Path) -> Result<NodeKey, TlsError> {
        let pem = std::fs::read_to_string(path).map_err(|e| file_error(path, &e))?;
        let pair = rcgen::KeyPair::from_pem(&pem).map_err(|e| file_error(path, &e))?;
        let mut parameters =
            rcgen::CertificateParams::new(vec!["elpis".to_owned()]).map_err(|e| file_error(path, &e))?;
        parameters.not_after = rcgen::date_time_ymd(4096, 1, 1);
        let certificate = parameters.self_signed(&pair).map_err(|e| file_error(path, &e))?.der().clone();
        Ok(NodeKey { certificate, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der())) })
    }

    /// To a node with this pin and no other.
    pub(crate) fn towards(&self, spki: &str) -> Result<Arc<ClientConfig>, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pin {
                spki: Some(spki.to_owned()),
                provider: provider(),
            }))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        Ok(Arc::new(config))
    }

    /// For nodes of the map.
    pub(crate) fn acceptor(&self, cluster: &Cluster) -> Result<Arc<ServerConfig>, TlsError> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Members { cluster: cluster.clone(), provider: provider() }))
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        Ok(Arc::new(config))
    }
}

/// SHA-256 of the public key, hex.
pub(crate) fn pin(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let spki = parsed.subject_public_key_info();
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, spki.as_ref());
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[derive(Debug)]
struct Pin {
    /// `None` = any key.
    spki: Option<String>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn any() -> Pin {
        Pin { spki: None, provider: provider() }
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
        match &self.spki {
            Some(spki) if pin(certificate)? != *spki => {
                Err(Error::General("another key than the node's".into()))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Members {
    cluster: Cluster,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let spki = pin(certificate)?;
        match self.cluster.map().nodes.values().any(|node| node.spki == spki) {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(Error::General("no node of this cluster has that key".into())),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
