//! Records over real connections, from a program that stands in for journalctl.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_logs::{Config, Pace, Server, run};
use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);
const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}
/// Nothing becomes sure by time alone.
const SLOW: Pace = Pace {
    taken: SOON,
    sure: Duration::from_secs(3600),
    quiet: Duration::from_secs(3600),
    keep: ms(50),
    first: ms(10),
    last: ms(50),
    lasts: Duration::from_secs(3600),
};
/// Begins with the cursor's own entry, as journalctl does, and follows for ever.
const JOURNALCTL: &str = r#"#!/bin/sh
for option in "$@"; do
  case $option in --cursor=*) from=${option#*=} ;; esac
done
sed -n "/\"__CURSOR\":\"$from/,\$p" "$(dirname "$0")/entries"
exec sleep 1000
"#;

struct World {
    folder: tempfile::TempDir,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    config: Config,
    sha256: String,
    stop: CancellationToken,
}

impl World {
    /// A journal of so many entries, and a log server on the loopback.
    async fn new(entries: usize) -> World {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = String::new();
        for number in 0..entries {
            writeln!(
                journal,
                r#"{{"__CURSOR":"c{number};","__REALTIME_TIMESTAMP":"{number}","PRIORITY":"6","MESSAGE":"entry {number}."}}"#
            )
            .unwrap();
        }
        std::fs::write(folder.path().join("entries"), journal).unwrap();
        let journalctl = folder.path().join("journalctl");
        std::fs::write(&journalctl, JOURNALCTL).unwrap();
        std::fs::set_permissions(&journalctl, PermissionsExt::from_mode(0o700)).unwrap();
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let authorities = folder.path().join("authorities.pem");
        std::fs::write(&authorities, cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, cert.der());
        let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let port = listener.local_addr().unwrap().port();
        let to = Server { host: "localhost".into(), port, sha256: None };
        let mut config = Config::new(to, folder.path().to_owned(), folder.path().join("trouble"));
        (config.journalctl, config.authorities) = (journalctl, authorities);
        config.pace = SLOW;
        World {
            folder,
            listener,
            acceptor: Arc::new(server).into(),
            config,
            sha256,
            stop: CancellationToken::new(),
        }
    }

    fn begin(&self) -> JoinHandle<Result<(), elpis_logs::Error>> {
        tokio::spawn(run(self.config.clone(), self.stop.clone()))
    }

    async fn accept(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let (stream, _) = timeout(SOON, self.listener.accept()).await.expect("nobody connects")?;
        timeout(SOON, self.acceptor.accept(stream)).await.expect("no handshake")
    }

    async fn until(&self, what: &str, good: impl Fn(&World) -> bool) {
        let begin = Instant::now();
        while !good(self) {
            assert!(begin.elapsed() < SOON, "not: {what}");
            sleep(ms(10)).await;
        }
    }

    fn trouble(&self) -> Option<String> {
        std::fs::read_to_string(&self.config.trouble).ok()
    }

    async fn end(&self, forwarder: JoinHandle<Result<(), elpis_logs::Error>>) {
        self.stop.cancel();
        timeout(SOON, forwarder).await.unwrap().unwrap().unwrap();
    }

    fn kept(&self) -> Option<String> {
        std::fs::read_to_string(Path::new(self.folder.path()).join("position")).ok()
    }
}

/// Messages of the frames, until there are so many.
async fn messages(stream: &mut TlsStream<TcpStream>, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let mut length = Vec::new();
        loop {
            let byte = timeout(SOON, stream.read_u8()).await.expect("nothing comes").unwrap();
            match byte {
                b' ' => break,
                digit => length.push(digit),
            }
        }
        let length: usize = String::from_utf8(length).unwrap().parse().unwrap();
        let mut record = vec![0; length];
        timeout(SOON, stream.read_exact(&mut record)).await.expect("half a record").unwrap();
        let record = String::from_utf8(record).unwrap();
        found.push(record.split_once('\u{feff}').unwrap().1.to_owned());
    }
    found
}

/// Closes in order and is sent the journal again, until that begins with its last entry of 100: what is before is sure.
async fn begins_with_the_last(world: &World, mut stream: TlsStream<TcpStream>) {
    let mut held = ms(100);
    loop {
        sleep(held).await;
        let _ = stream.shutdown().await;
        stream = world.accept().await.unwrap();
        if messages(&mut stream, 1).await == ["entry 99."] {
            return;
        }
        messages(&mut stream, 99).await;
        held *= 2;
        assert!(held < SOON, "it never becomes sure");
    }
}

#[tokio::test]
async fn the_whole_journal_arrives_in_order_and_again_after_a_break() {
    let mut world = World::new(5000).await;
    world.config.server.sha256 = Some(world.sha256.clone());
    let forwarder = world.begin();
    let mut first = world.accept().await.unwrap();
    let begun = messages(&mut first, 1200).await;
    assert!(begun.iter().enumerate().all(|(n, text)| *text == format!("entry {n}.")));
    drop(first);
    // What the broken connection had taken is sure nowhere: all comes, and once more what came before.
    let mut second = world.accept().await.unwrap();
    let all: Vec<String> = messages(&mut second, 5000).await;
    assert_eq!((all[0].as_str(), all.iter().collect::<BTreeSet<_>>().len()), ("entry 0.", 5000));
    world.end(forwarder).await;
    assert_eq!(world.kept(), None);
}

#[tokio::test]
async fn it_goes_on_where_it_was_and_only_to_whom_it_knows() {
    let mut world = World::new(100).await;
    std::fs::write(world.folder.path().join("position"), "1 c89;\n").unwrap();
    // Vouched for by an authority that the machine knows, for this host.
    let forwarder = world.begin();
    let mut stream = world.accept().await.unwrap();
    assert_eq!(messages(&mut stream, 11).await.first().map(String::as_str), Some("entry 89."));
    world.end(forwarder).await;
    assert_eq!(world.kept().as_deref(), Some("1 c89;\n"));
    // For another host, and another certificate than was named.
    for (host, sha256) in [("127.0.0.1", None), ("localhost", Some("00".repeat(32)))] {
        world.stop = CancellationToken::new();
        (world.config.server.host, world.config.server.sha256) = (host.to_owned(), sha256);
        let forwarder = world.begin();
        let refused = match world.accept().await {
            // With TLS 1.3 a client that refuses says so behind the handshake.
            Ok(mut stream) => timeout(SOON, stream.read_u8()).await.expect("it stays").is_err(),
            Err(_) => true,
        };
        assert!(refused, "{host}");
        world.end(forwarder).await;
    }
}

#[tokio::test]
async fn what_a_server_took_before_it_closed_does_not_come_again() {
    let mut world = World::new(100).await;
    world.config.pace.quiet = ms(100);
    let forwarder = world.begin();
    let mut stream = world.accept().await.unwrap();
    messages(&mut stream, 100).await;
    begins_with_the_last(&world, stream).await;
    world.end(forwarder).await;
    assert_eq!(world.kept().as_deref(), Some("1 c99;\n"));
}

#[tokio::test]
async fn an_entry_that_is_too_long_stands_in_nobodys_way() {
    let world = World::new(10).await;
    let entries = world.folder.path().join("entries");
    let text = std::fs::read_to_string(&entries).unwrap();
    std::fs::write(&entries, text.replace("entry 4.", &"x".repeat(3 << 20))).unwrap();
    let forwarder = world.begin();
    let mut stream = world.accept().await.unwrap();
    let all = messages(&mut stream, 9).await;
    assert_eq!((all[3].as_str(), all[4].as_str(), all[8].as_str()), ("entry 3.", "entry 5.", "entry 9."));
    world.end(forwarder).await;
}

#[tokio::test]
async fn trouble_that_lasts_is_shown_until_records_surely_get_out() {
    let mut world = World::new(10).await;
    world.config.pace = Pace { lasts: ms(200), sure: ms(300), ..SLOW };
    let forwarder = world.begin();
    // It takes connections and what comes first, and closes: nothing gets out.
    let begin = Instant::now();
    let mut tries = 0;
    while world.trouble().is_none() {
        assert!(begin.elapsed() < SOON, "nothing is shown");
        let mut stream = world.accept().await.unwrap();
        messages(&mut stream, 1).await;
        tries += 1;
    }
    assert!(tries > 3, "shown after {tries}");
    let shown = world.trouble().unwrap();
    assert!(
        shown.starts_with("no log has surely gone out since 2") && shown.contains("localhost:"),
        "{shown}"
    );
    let mut stream = world.accept().await.unwrap();
    messages(&mut stream, 10).await;
    world.until("the trouble is over", |world| world.trouble().is_none()).await;
    world.until("the position is kept", |world| world.kept().as_deref() == Some("1 c9;\n")).await;
    world.end(forwarder).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_stops_nothing() {
    let mut world = World::new(100).await;
    world.config.data = world.folder.path().join("none");
    world.config.pace.sure = ms(50);
    let forwarder = world.begin();
    let mut stream = world.accept().await.unwrap();
    messages(&mut stream, 100).await;
    // Sure in the end, and nowhere written down.
    begins_with_the_last(&world, stream).await;
    world.end(forwarder).await;
}

#[tokio::test]
async fn without_authorities_it_says_so_and_ends() {
    let mut world = World::new(1).await;
    world.config.authorities = world.folder.path().join("none.pem");
    let error = timeout(SOON, world.begin()).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("cannot read"), "{error}");
    assert!(world.trouble().is_some_and(|shown| shown.contains("cannot read")));
}
