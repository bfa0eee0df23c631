//! Probes against listeners on 127.0.0.0/8.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside #[test]

use elpis_monitor::{Check, ModuleType};
use elpis_probe::{Limits, Outcome, Prober};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

fn prober() -> Prober {
    let limits = Limits {
        tcp_timeout: Duration::from_secs(2),
        icmp_timeout: Duration::from_secs(2),
        snmp_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    Prober::new(limits, Arc::new(|| true))
}

fn kind(name: &str) -> ModuleType {
    ModuleType::from_name(name).unwrap()
}

/// A server that greets, answers each line with `answer(line)` and keeps the connection open.
async fn server(greeting: &'static str, answer: fn(&str) -> &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(greeting.as_bytes()).await;
                let mut buffer = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    let line = String::from_utf8_lossy(&buffer[..n]).into_owned();
                    let text = answer(&line);
                    if text == "close" {
                        return;
                    }
                    let _ = stream.write_all(text.as_bytes()).await;
                }
            });
        }
    });
    address
}

fn smtp(line: &str) -> &'static str {
    match line {
        "HELO x\r\n" => "250 Hello\r\n",
        "QUIT\r\n" => "221 bye\r\n",
        "COUNT\r\n" => "17.5\r\n",
        _ => "500 what\r\n",
    }
}

#[tokio::test]
async fn tcp_booleans_walk_the_pairs_and_stop_as_soon_as_the_text_is_in() {
    let at = server("220 ready\r\n", smtp).await;
    let start = Instant::now();
    for (send, expect, wanted) in [
        ("", "", "1"),
        ("", "READY", "1"),
        ("HELO x^M|QUIT^M", "^2[25]0|221", "1"),
        ("|HELO x^M|QUIT^M", "220|^250|^221", "1"),
    ] {
        let check = Check { port: at.port(), send: send.into(), expect: expect.into(), ..Check::default() };
        let result = prober().run(&check, kind("remote_tcp_proc"), "127.0.0.1").await;
        assert_eq!(result.outcome, Outcome::Data(wanted.into()), "{send} {expect}");
    }
    assert!(start.elapsed() < Duration::from_secs(2), "the server never closes, so it must stop by the text");
    let check = Check { port: at.port(), expect: "nothing".into(), timeout_s: 1, ..Check::default() };
    let result = prober().run(&check, kind("remote_tcp_proc"), "127.0.0.1").await;
    assert_eq!(result.outcome, Outcome::Data("0".into()));
}

#[tokio::test]
async fn tcp_values() {
    let at = server("", smtp).await;
    let check = Check { port: at.port(), send: "COUNT^M".into(), expect: "\\n".into(), ..Check::default() };
    let number = prober().run(&check, kind("remote_tcp"), "localhost").await;
    assert_eq!(number.outcome, Outcome::Data("17.5\r\n".trim().into()));
    let text = prober().run(&check, kind("remote_tcp_string"), "127.0.0.1").await;
    assert_eq!(text.outcome, Outcome::Data("17.5\r\n".into()));
    let words = Check { send: "HELO x^M".into(), ..check };
    let bad = prober().run(&words, kind("remote_tcp"), "127.0.0.1").await;
    assert!(matches!(bad.outcome, Outcome::Error(_)));
}

#[tokio::test]
async fn a_refused_port_is_zero_for_booleans_and_an_error_for_values() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let check = Check { port, ..Check::default() };
    assert_eq!(
        prober().run(&check, kind("remote_tcp_proc"), "127.0.0.1").await.outcome,
        Outcome::Data("0".into())
    );
    assert!(matches!(prober().run(&check, kind("remote_tcp"), "127.0.0.1").await.outcome, Outcome::Error(_)));
    let none = Check::default();
    assert!(matches!(
        prober().run(&none, kind("remote_tcp_proc"), "127.0.0.1").await.outcome,
        Outcome::Error(_)
    ));
    assert!(matches!(prober().run(&check, kind("remote_tcp_proc"), "").await.outcome, Outcome::Error(_)));
}

#[tokio::test]
async fn a_closed_gate_sends_nothing() {
    let at = server("", smtp).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let closed =
        Prober::new(Limits::default(), Arc::new(move || counter.fetch_add(1, Ordering::SeqCst) > 100));
    for name in ["remote_tcp_proc", "remote_udp_proc", "remote_snmp"] {
        let check = Check { port: at.port(), oid: "1.3.6.1.2.1.1.3.0".into(), ..Check::default() };
        assert_eq!(closed.run(&check, kind(name), "127.0.0.1").await.outcome, Outcome::Withdrawn, "{name}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_gate_is_asked_again_before_each_send() {
    let at = server("220\r\n", smtp).await;
    let open = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&open);
    // Open for the connection, closed for what follows.
    let once = Prober::new(Limits::default(), Arc::new(move || gate.swap(false, Ordering::SeqCst)));
    let check = Check { port: at.port(), send: "HELO x^M".into(), expect: "250".into(), ..Check::default() };
    assert_eq!(once.run(&check, kind("remote_tcp_proc"), "127.0.0.1").await.outcome, Outcome::Withdrawn);
}

#[tokio::test]
async fn udp_answers_and_silence() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            if &buffer[..n] == b"COUNT" {
                let _ = socket.send_to(b"42", from).await;
            }
        }
    });
    let check = Check { port, send: "COUNT".into(), ..Check::default() };
    assert_eq!(
        prober().run(&check, kind("remote_udp"), "127.0.0.1").await.outcome,
        Outcome::Data("42".into())
    );
    assert_eq!(
        prober().run(&check, kind("remote_udp_proc"), "127.0.0.1").await.outcome,
        Outcome::Data("1".into())
    );
    let silent = Check { send: "other".into(), timeout_s: 1, ..check };
    assert_eq!(
        prober().run(&silent, kind("remote_udp_proc"), "127.0.0.1").await.outcome,
        Outcome::Data("0".into())
    );
}

#[tokio::test]
async fn icmp_reaches_two_thousand_local_addresses_or_names_the_missing_right() {
    let prober = Arc::new(prober());
    let start = Instant::now();
    let tasks: Vec<_> = (0..2000_u32)
        .map(|i| {
            let prober = Arc::clone(&prober);
            tokio::spawn(async move {
                let target = format!("127.1.{}.{}", i / 250, 1 + i % 250);
                prober.run(&Check::default(), kind("remote_icmp_proc"), &target).await.outcome
            })
        })
        .collect();
    let mut answered = 0;
    for task in tasks {
        match task.await.unwrap() {
            Outcome::Data(text) => answered += usize::from(text == "1"),
            Outcome::Error(text) => {
                assert!(text.contains("CAP_NET_RAW") && text.contains("setcap"), "{text}");
                return;
            }
            Outcome::Withdrawn => panic!("the gate is open"),
        }
    }
    assert_eq!(answered, 2000, "in {:?}", start.elapsed());
    let trip = prober.run(&Check::default(), kind("remote_icmp"), "127.0.0.1").await;
    let Outcome::Data(ms) = trip.outcome else { panic!("{trip:?}") };
    assert!(ms.parse::<f64>().unwrap() < 1000.0);
}

/// Answers a v2c or v1 get with `value` (the question's own bytes are mirrored, only type and value change).
async fn snmp_agent(value: &'static [u8]) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            // All lengths of a small get are single bytes, each container ends with the packet.
            let mut packet = buffer[..n - 2].to_vec();
            assert_eq!(&buffer[n - 2..n], [5, 0], "a question ends with NULL");
            packet.extend_from_slice(value);
            let grown = u8::try_from(value.len()).unwrap() - 2;
            packet[1] += grown;
            let mut at = 2;
            for _ in 0..2 {
                at += 2 + usize::from(packet[at + 1]);
            }
            packet[at] = 0xa2;
            packet[at + 1] += grown;
            at += 2;
            for _ in 0..3 {
                at += 2 + usize::from(packet[at + 1]);
            }
            packet[at + 1] += grown;
            packet[at + 3] += grown;
            let _ = socket.send_to(&packet, from).await;
        }
    });
    port
}

#[tokio::test]
async fn snmp_gets() {
    let number = snmp_agent(&[0x41, 2, 0x12, 0x34]).await;
    let text = snmp_agent(b"\x04\x04\"ab\"").await;
    let check = |port, version: &str| Check {
        port,
        send: version.into(),
        community: "public".into(),
        oid: ".1.3.6.1.2.1.1.3.0".into(),
        ..Check::default()
    };
    for version in ["1", "2c", "2"] {
        let result = prober().run(&check(number, version), kind("remote_snmp"), "127.0.0.1").await;
        assert_eq!(result.outcome, Outcome::Data("4660".into()), "{version}");
    }
    let result = prober().run(&check(text, "2c"), kind("remote_snmp_string"), "127.0.0.1").await;
    assert_eq!(result.outcome, Outcome::Data("ab".into()));
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let dead = prober().run(&check(port, "2c"), kind("remote_snmp_proc"), "127.0.0.1").await;
    assert_eq!(dead.outcome, Outcome::Data("0".into()));
    let dead = prober().run(&check(port, "2c"), kind("remote_snmp"), "127.0.0.1").await;
    assert!(matches!(dead.outcome, Outcome::Error(_)));
}
