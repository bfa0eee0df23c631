//! The folder of a development cluster: what lies where, and which ports its nodes have.
//!
//! `D/ports.json` names the nodes and their ports, `D/mariadb/` is a database outside of them, `D/nK/` the data folder of
//! a node with `run/*.pid`, `run/*.sock` and `log/*.log`. `D/nK/down` marks a node that must not run, `D/nK/member`
//! one that has joined.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// Longest folder path under which every socket path stays below the 108 bytes of the kernel.
const LONGEST: usize = 80;
/// Below the range from which the kernel takes ports for outgoing connections: a port of a node that is down stays free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Names and ports of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) version: u32,
    /// A listener that takes connections and closes them: something to check.
    pub(crate) sink: u16,
    pub(crate) nodes: Vec<NodePorts>,
    /// The nodes run the database themselves; else there is one MariaDB outside of them.
    #[serde(default)]
    pub(crate) managed: bool,
}

/// One node; all ports are on 127.0.0.1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodePorts {
    pub(crate) name: String,
    pub(crate) cluster: u16,
    pub(crate) spool: u16,
    pub(crate) tentacle: u16,
    pub(crate) console: u16,
    /// Database gate; 0 in a folder of before.
    #[serde(default)]
    pub(crate) gate: u16,
}

/// `127.0.0.1:port`.
pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A development cluster's folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// As the user knows it, absolute.
    pub(crate) dir: PathBuf,
    /// The same folder by a path short enough for unix sockets.
    root: PathBuf,
}

impl Layout {
    /// The folder of an existing development cluster.
    pub(crate) fn open(dir: &Path) -> Result<Layout> {
        let fix = "start one with `elpis dev up`, or name its folder with --dir";
        let absolute = fs::canonicalize(dir)
            .with_context(|| format!("there is no development cluster in {}; {fix}", dir.display()))?;
        let layout = Layout::at(absolute)?;
        ensure!(layout.is_made(), "there is no development cluster in {}; {fix}", dir.display());
        Ok(layout)
    }

    /// The folder of a new or existing development cluster.
    pub(crate) fn create(dir: &Path) -> Result<Layout> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let layout = Layout::at(fs::canonicalize(dir)?)?;
        let empty = fs::read_dir(&layout.dir)?.next().is_none();
        ensure!(
            empty || layout.is_made() || layout.dir.join("mariadb").is_dir(),
            "{} is neither empty nor a development cluster; choose another folder with --dir",
            dir.display()
        );
        Ok(layout)
    }

    fn at(dir: PathBuf) -> Result<Layout> {
        if dir.as_os_str().len() <= LONGEST {
            return Ok(Layout { root: dir.clone(), dir });
        }
        let mut hash = DefaultHasher::new();
        dir.hash(&mut hash);
        let root = PathBuf::from(format!("/tmp/elpis-{:016x}", hash.finish()));
        match symlink(&dir, &root) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let link = fs::symlink_metadata(&root)?;
                let ours = link.uid() == nix::unistd::getuid().as_raw() && link.is_symlink();
                ensure!(
                    ours && fs::read_link(&root)? == dir,
                    "{} is in the way: it should be our link to {}; remove it",
                    root.display(),
                    dir.display()
                );
            }
            Err(e) => return Err(e).with_context(|| format!("cannot make the link {}", root.display())),
        }
        Ok(Layout { dir, root })
    }

    /// Removes what lies outside the folder: the link for a long path.
    pub(crate) fn forget_link(&self) {
        if self.root != self.dir {
            let _ = fs::remove_file(&self.root);
        }
    }

    pub(crate) fn is_made(&self) -> bool {
        self.path("ports.json").is_file()
    }

    /// Whether the nodes run the database.
    pub(crate) fn is_managed(&self) -> bool {
        self.ports().is_ok_and(|ports| ports.managed)
    }

    /// A path in the folder, short enough for a socket.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Data folder of a node.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn pid_file(&self, node: &str, process: &str) -> PathBuf {
        self.node(node).join("run").join(format!("{process}.pid"))
    }

    pub(crate) fn node_socket(&self, node: &str) -> PathBuf {
        self.node(node).join("run/node.sock")
    }

    pub(crate) fn api_socket(&self, node: &str) -> PathBuf {
        self.node(node).join("run/api.sock")
    }

    /// Marks a node as one that must not run.
    pub(crate) fn down_mark(&self, node: &str) -> PathBuf {
        self.node(node).join("down")
    }

    /// Marks a node that is a member of the cluster: its servers may start.
    pub(crate) fn member_mark(&self, node: &str) -> PathBuf {
        self.node(node).join("member")
    }

    /// While it is there this machine's own figures are sent to the cluster.
    pub(crate) fn feed_mark(&self) -> PathBuf {
        self.path("feed")
    }

    pub(crate) fn ports(&self) -> Result<Ports> {
        let path = self.path("ports.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let ports: Ports =
            serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        if ports.version != VERSION {
            bail!("{} has version {}, this program knows {VERSION}", path.display(), ports.version);
        }
        Ok(ports)
    }

    /// A new cluster's nodes run the database themselves, or do not.
    pub(crate) fn choose_database(&self, managed: bool) -> Result<()> {
        let ports = Ports { version: VERSION, managed, ..Ports::default() };
        write_whole(&self.path("ports.json"), &serde_json::to_vec_pretty(&ports)?)
    }

    /// Has ports for `count` nodes at least, keeping those that are there. Makes the nodes' folders.
    pub(crate) fn provide_ports(&self, count: usize) -> Result<Ports> {
        let mut ports = if self.is_made() { self.ports()? } else { Ports::default() };
        let before = ports.clone();
        ports.version = VERSION;
        let mut picker = Picker::new(&ports);
        for node in ports.nodes.iter_mut().filter(|node| node.gate == 0) {
            node.gate = picker.pick()?;
        }
        if ports.sink == 0 {
            ports.sink = picker.pick()?;
        }
        for number in ports.nodes.len() + 1..=count {
            ports.nodes.push(NodePorts {
                name: format!("n{number}"),
                cluster: picker.pick()?,
                spool: picker.pick()?,
                tentacle: picker.pick()?,
                console: picker.pick()?,
                gate: picker.pick()?,
            });
        }
        for node in &ports.nodes {
            for folder in ["run", "log"] {
                let path = self.node(&node.name).join(folder);
                fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            }
        }
        if ports != before {
            write_whole(&self.path("ports.json"), &serde_json::to_vec_pretty(&ports)?)?;
        }
        Ok(ports)
    }

    /// The password of the database account, made at first.
    pub(crate) fn database_password(&self) -> Result<String> {
        let path = self.path("db.password");
        if path.is_file() {
            return Ok(fs::read_to_string(&path)?.trim_end().to_owned());
        }
        let password = random_hex()?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{password}")?;
        Ok(password)
    }
}

/// Writes a file so that a reader sees the old or the new one.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Picks free ports, each once.
struct Picker {
    taken: HashSet<u16>,
    next: u16,
}

impl Picker {
    fn new(ports: &Ports) -> Picker {
        let taken = ports
            .nodes
            .iter()
            .flat_map(|n| [n.cluster, n.spool, n.tentacle, n.console, n.gate])
            .chain([ports.sink])
            .collect();
        // Two folders started at once begin at different places.
        let spread = std::process::id().wrapping_mul(97) % u32::from(PORTS.end - PORTS.start);
        Picker { taken, next: PORTS.start + u16::try_from(spread).unwrap_or(0) }
    }

    fn pick(&mut self) -> Result<u16> {
        for _ in PORTS {
            let port = self.next;
            self.next = if port + 1 == PORTS.end { PORTS.start } else { port + 1 };
            if !self.taken.contains(&port) && TcpListener::bind(local(port)).is_ok() {
                self.taken.insert(port);
                return Ok(port);
            }
        }
        bail!("no free TCP port between {} and {} on 127.0.0.1", PORTS.start, PORTS.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_and_grow() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let three = layout.provide_ports(3).unwrap();
        assert_eq!(layout.provide_ports(0).unwrap(), three);
        let four = Layout::open(dir.path()).unwrap().provide_ports(4).unwrap();
        assert_eq!(four.nodes[..3], three.nodes[..]);
        assert_eq!(four.nodes[3].name, "n4");
        assert_eq!(layout.database_password().unwrap(), layout.database_password().unwrap());
    }

    #[test]
    fn a_long_folder_gets_a_short_name() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(100));
        let layout = Layout::create(&long).unwrap();
        assert!(layout.node_socket("n15").as_os_str().len() < 60);
        layout.provide_ports(1).unwrap();
        assert!(long.join("ports.json").is_file());
        assert_eq!(Layout::open(&long).unwrap().root, layout.root);
        layout.forget_link();
        assert!(!layout.root.exists());
    }

    #[test]
    fn foreign_folders_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter.txt"), "dear").unwrap();
        assert!(Layout::create(dir.path()).is_err());
        assert!(Layout::open(dir.path()).is_err());
    }
}
