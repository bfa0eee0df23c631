use super::*;
use crate::client::{self, ClientConfig, ClientError, Tls};
use elpis_watch::{Node, Owner};
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Server {
    folder: tempfile::TempDir,
    address: SocketAddr,
    node: Node,
    config: ServerConfig,
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn prepare(name: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = folder.path().join("node.key");
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
    std::fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
    use rcgen::PublicKeyData as _;
    let spki = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pair.subject_public_key_info());
    let spki: String = spki.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(tls::pin(certificate.der()).unwrap(), spki);
    let (address, spool_address) = (free(), free());
    let mut config = ServerConfig::new(address, folder.path().join("spool"), key.clone());
    config.spool_listen = Some(spool_address);
    config.tls = Some(AgentTls { cert: folder.path().join("cert.pem"), key, ca: None });
    let node = Node {
        name: name.into(),
        session: 1,
        live: true,
        spool_address: spool_address.to_string(),
        spki,
        gate_address: String::new(),
    };
    Server { folder, address, node, config }
}

impl Server {
    fn spool(&self) -> Spool {
        Spool::open(self.folder.path().join("spool"), Limits::default()).unwrap()
    }

    fn start(&self, id: NodeId, map: &watch::Sender<Arc<Map>>, stop: &CancellationToken) {
        let cluster = Cluster { node: id, map: map.subscribe(), now_ms: Arc::new(|| 1_000) };
        let shard_of: ShardOf = Arc::new(|name| name.ends_with(".data").then_some(5));
        tokio::spawn(run(self.config.clone(), cluster, shard_of, stop.clone()));
    }

    fn client(&self, tls: Tls) -> ClientConfig {
        let address = format!("localhost:{}", self.address.port());
        ClientConfig { address, tls, password: None, idle: Duration::from_secs(20), size: 1 << 20 }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn open(address: SocketAddr) -> TcpStream {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) if begin.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn map_of(servers: &[&Server], owner: NodeId, epoch: u64) -> Arc<Map> {
    let nodes = servers.iter().zip(1..).map(|(server, id)| (id, server.node.clone())).collect();
    Arc::new(Map { nodes, shards: vec![Owner { node: owner, epoch }; 4096], ..Map::default() })
}

#[tokio::test]
async fn transcripts_over_a_socket_and_files_over_tls() {
    let server = prepare("a");
    let map = watch::Sender::new(map_of(&[&server], 1, 1));
    let stop = CancellationToken::new();
    server.start(1, &map, &stop);
    let mut stream = open(server.address).await;
    for (said, expected) in [
        ("SEND <hello.data> SIZE 17\n", "SEND OK\n"),
        ("Hello, Tentacle!\n", "SEND OK\n"),
        ("SEND <a.conf> SIZE 3\n", "SEND OK\n"),
        ("abc", "SEND OK\n"),
        ("SEND <a.conf> SIZE 3\n", "SEND ERR (file already exists)\n"),
        ("SEND <hello.data> SIZE 1\n", "SEND OK\n"),
        ("x", "SEND ERR (file already exists)\n"),
        ("SEND <bad+name.data> SIZE 1\n", "SEND ERR (invalid file name)\n"),
        ("RECV <a.conf>\n", "RECV SIZE 3\n"),
        ("RECV OK\n", "abc"),
        ("RECV <nope>\n", "RECV ERR (file does not exist)\n"),
    ] {
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut reply = vec![0; expected.len()];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&reply), expected, "after {said:?}");
    }
    stream.write_all(b"QUIT\n").await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let entries = server.spool().entries(5).unwrap();
    assert_eq!(server.spool().read(&entries[0]).unwrap().content, b"Hello, Tentacle!\n");
    assert!(server.folder.path().join("spool/files/conf/a.conf").exists());

    let verified = server.client(Tls::Verified(server.folder.path().join("cert.pem")));
    client::send_contents(&verified, &[("t.data".into(), vec![b'x'; 50_000])]).await.unwrap();
    client::fetch(&verified, &["a.conf".into()], server.folder.path()).await.unwrap();
    assert_eq!(std::fs::read(server.folder.path().join("a.conf")).unwrap(), b"abc");
    let again =
        client::send_contents(&server.client(Tls::Unverified), &[("t.data".into(), vec![b'y'])]).await;
    assert!(
        matches!(again, Err(ClientError::Refused { reply, .. }) if reply == "SEND ERR (file already exists)")
    );
    stop.cancel();
}

#[tokio::test]
async fn who_comes_without_tls_from_a_network_that_is_not_named_is_refused() {
    let mut server = prepare("a");
    server.config.plain_from = vec![([10, 0, 0, 0].into(), 8)];
    let map = watch::Sender::new(map_of(&[&server], 1, 1));
    let stop = CancellationToken::new();
    server.start(1, &map, &stop);
    let mut stream = open(server.address).await;
    stream.write_all(b"SEND <hello.data> SIZE 1\n").await.unwrap();
    // The connection ends without a word of the protocol.
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    let secured = server.client(Tls::Unverified);
    client::send_contents(&secured, &[("t.data".into(), b"x".to_vec())]).await.unwrap();
    assert_eq!(server.spool().entries(5).unwrap().len(), 1);
    stop.cancel();
}

#[tokio::test]
async fn two_copies_deletion_on_both_and_take_over() {
    let (a, b) = (prepare("a"), prepare("b"));
    let map = watch::Sender::new(map_of(&[&a, &b], 2, 1));
    let stop = CancellationToken::new();
    a.start(1, &map, &stop);
    b.start(2, &map, &stop);
    until("readiness of the owner", || b.spool().readiness().get(&5) == Some(&1)).await;
    open(a.address).await;

    // Accepted at a, owned by b: when the client is told, both have it.
    client::send_contents(&a.client(Tls::Off), &[("one.data".into(), b"1".to_vec())]).await.unwrap();
    let at_b = b.spool().entries(5).unwrap();
    assert_eq!((a.spool().entries(5).unwrap().len(), at_b.len()), (1, 1));
    b.spool().done(&at_b[0]).unwrap();
    until("deletion on both", || !a.spool().has_work(5) && b.spool().handed_done().unwrap().is_empty()).await;

    // The owner moves: the new one has every entry before it is ready.
    client::send_contents(&b.client(Tls::Off), &[("two.data".into(), b"2".to_vec())]).await.unwrap();
    let id = b.spool().entries(5).unwrap()[0].id;
    a.spool().delete(&a.spool().entry(5, id)).unwrap();
    map.send_replace(map_of(&[&a, &b], 1, 2));
    until("readiness of the new owner", || a.spool().readiness().get(&5) == Some(&2)).await;
    let entries = a.spool().entries(5).unwrap();
    assert_eq!(a.spool().read(&entries[0]).unwrap().content, b"2");

    // Forwarded: the same id under the true shard at the owner, on both nodes, and nowhere else.
    a.spool().forward(&entries[0], 9).unwrap();
    until("forwarding", || a.spool().handed_forward().unwrap().is_empty()).await;
    assert!(a.spool().has(9, id) && b.spool().has(9, id) && !b.spool().has(5, id));
    assert!(a.spool().read(&a.spool().entry(9, id)).unwrap().header.forwarded);
    stop.cancel();
}
