//! Who this node is: its key, the pin of that key, and its place in the cluster, kept in the data folder.

use crate::key::ClusterKey;
use crate::profile::Kept;
use crate::types::hex;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the node file.
const FILE: u16 = 1;
/// File of the cluster key.
const CLUSTER_KEY: &str = "cluster.key";

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot use {path}: {source}; check its owner and rights")]
    File { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} cannot be read: {why}; remove this node from the cluster, empty its data folder and join again"
    )]
    Damaged { path: PathBuf, why: String },
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the system gives no randomness; no key can be made")]
    Randomness,
}

/// Place of this node in its cluster. Written when it is admitted, and for a new generation or profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub version: u16,
    pub node: u64,
    /// Uuid of this node.
    pub uuid: String,
    pub cluster: String,
    pub generation: u64,
    /// Pins and addresses of the members at that time, by node id: they count until the node has a state of its own.
    pub peers: BTreeMap<u64, Peer>,
    /// With which timings its Raft is started; `None` = written by a program that knew of none.
    #[serde(default)]
    pub profile: Option<Kept>,
}

/// A member as seen when this node joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub spki: String,
    pub address: String,
}

/// Key and place.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Pin of this node's own key, hex.
    pub spki: String,
    /// `None` until it belongs to a cluster.
    pub place: Option<Place>,
    /// Boot id of the kernel: tells a restarted process from a copied machine.
    pub boot_id: String,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
    /// The cluster's; `None` until it belongs to one.
    pub(crate) cluster_key: Option<ClusterKey>,
    folder: PathBuf,
}

impl Identity {
    /// Reads key and place from the folder; makes the folder and the key the first time.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be used.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { path, source }
        };
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        let path = folder.join("node.key");
        let pair = match std::fs::read_to_string(&path) {
            Ok(pem) => rcgen::KeyPair::from_pem(&pem)
                .map_err(|e| IdentityError::Damaged { path: path.clone(), why: e.to_string() })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
                write_whole(&path, pair.serialize_pem().as_bytes()).map_err(at(&path))?;
                pair
            }
            Err(e) => return Err(at(&path)(e)),
        };
        // The certificate only carries the key; dates and names in it mean nothing between members.
        let mut parameters = rcgen::CertificateParams::new(vec!["elpis".to_owned()])?;
        parameters.not_after = rcgen::date_time_ymd(4096, 1, 1);
        let certificate = parameters.self_signed(&pair)?.der().clone();
        let spki = spki_pin(&certificate).ok_or_else(|| IdentityError::Damaged {
            path: path.clone(),
            why: "its certificate is odd".to_owned(),
        })?;
        let place_path = folder.join("node.json");
        let place = match std::fs::read(&place_path) {
            Ok(body) => Some(read_place(&place_path, &body)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(at(&place_path)(e)),
        };
        let cluster_key = read_cluster_key(&folder.join(CLUSTER_KEY))?;
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Ok(Identity {
            spki,
            place,
            boot_id,
            certificate,
            key: Arc::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()))),
            cluster_key,
            folder: folder.to_owned(),
        })
    }

    /// Makes the key of a new cluster and keeps it.
    pub(crate) fn make_cluster_key(&mut self) -> Result<(), IdentityError> {
        self.keep_cluster_key(ClusterKey::random().ok_or(IdentityError::Randomness)?)
    }

    /// Keeps the cluster's key. Before the place: a node that has one has the key, too.
    pub(crate) fn keep_cluster_key(&mut self, key: ClusterKey) -> Result<(), IdentityError> {
        let path = self.folder.join(CLUSTER_KEY);
        write_whole(&path, key.text().as_bytes()).map_err(|source| IdentityError::File { path, source })?;
        self.cluster_key = Some(key);
        Ok(())
    }

    /// Keeps the place for ever.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn settle(&mut self, mut place: Place) -> Result<(), IdentityError> {
        place.version = FILE;
        let path = self.folder.join("node.json");
        let body = serde_json::to_vec_pretty(&place)
            .map_err(|e| IdentityError::Damaged { path: path.clone(), why: e.to_string() })?;
        write_whole(&path, &body).map_err(|source| IdentityError::File { path, source })?;
        self.place = Some(place);
        Ok(())
    }

    /// Folder with key, place and log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn read_cluster_key(path: &Path) -> Result<Option<ClusterKey>, IdentityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => match ClusterKey::read(&text) {
            Some(key) => Ok(Some(key)),
            None => Err(IdentityError::Damaged { path: path.to_owned(), why: "it holds no key".to_owned() }),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::File { path: path.to_owned(), source }),
    }
}

fn read_place(path: &Path, body: &[u8]) -> Result<Place, IdentityError> {
    let damaged = |why: String| IdentityError::Damaged { path: path.to_owned(), why };
    let place: Place = serde_json::from_slice(body).map_err(|e| damaged(e.to_string()))?;
    if place.version != FILE {
        return Err(damaged(format!("it has version {}, this program knows {FILE}", place.version)));
    }
    Ok(place)
}

/// For its owner alone, and whole or not at all.
pub(crate) fn write_whole(path: &Path, body: &[u8]) -> std::io::Result<()> {
    elpis_watch::durable::write_whole(path, body, 0o600)
}

/// Pin of the certificate: SHA-256 of its public key, hex.
#[must_use]
pub fn spki_pin(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(hex(digest(&SHA256, parsed.public_key().raw).as_ref()))
}

/// A random uuid (version 4).
///
/// # Errors
/// When the system has no randomness.
pub fn new_uuid() -> Result<String, rcgen::Error> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let h = hex(&bytes);
    Ok(format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]))
}
