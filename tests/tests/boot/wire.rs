//! The wire that guests share: a switch in this process, over datagram sockets. Nothing of it reaches the host's network.

use crate::guest::Place;
use std::collections::{HashMap, HashSet};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest frame.
const FRAME: usize = 70_000;
const PATIENCE: Duration = Duration::from_millis(50);

pub(crate) struct Wire {
    folder: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    switch: Option<std::thread::JoinHandle<()>>,
}

impl Wire {
    pub(crate) fn new() -> Wire {
        let folder = tempfile::Builder::new().prefix("elpis-wire").tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("switch")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let switch = std::thread::spawn(move || forward(&socket, &stopped));
        Wire { folder, stop, switch: Some(switch) }
    }

    pub(crate) fn place(&self, number: u8) -> Place {
        let path = |name: &str| self.folder.path().join(name);
        Place { switch: path("switch"), own: path(&format!("guest-{number}")), number }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(switch) = self.switch.take() {
            let _ = switch.join();
        }
    }
}

/// Learns who has which hardware address; what is for nobody known goes to all others.
fn forward(socket: &UnixDatagram, stop: &AtomicBool) {
    // A socket's queue holds ten frames: who is slow is waited for, who takes nothing (a guest without a driver) once.
    let (patient, hasty) = (UnixDatagram::unbound().unwrap(), UnixDatagram::unbound().unwrap());
    patient.set_write_timeout(Some(PATIENCE)).unwrap();
    hasty.set_nonblocking(true).unwrap();
    let mut late: HashSet<PathBuf> = HashSet::new();
    let mut known: HashMap<[u8; 6], PathBuf> = HashMap::new();
    let mut frame = vec![0; FRAME];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut frame) else { continue };
        let Some(from) = from.as_pathname().map(PathBuf::from) else { continue };
        if length < 14 {
            continue;
        }
        let address = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap();
        let (to, source) = (address(0), address(6));
        known.insert(source, from.clone());
        let one = known.get(&to).cloned();
        let all = || known.values().filter(|path| **path != from).cloned().collect();
        let receivers: Vec<PathBuf> = one.map_or_else(all, |path| vec![path]);
        for receiver in receivers {
            // What is not taken is lost: as on a real wire.
            let way = if late.contains(&receiver) { &hasty } else { &patient };
            match way.send_to(&frame[..length], &receiver) {
                Ok(_) => late.remove(&receiver),
                Err(_) => late.insert(receiver),
            };
        }
    }
}
