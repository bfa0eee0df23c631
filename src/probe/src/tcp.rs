//! TCP checks: connect, exchange, judge.

use crate::{
    Ask, Failure,
    pattern::{self, Exchange},
};
use elpis_monitor::{Check, Kind};
use regex::bytes::Regex;
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// No answer is read further than this.
const MOST: usize = 64 * 1024;

pub(crate) async fn run(
    check: &Check,
    kind: Kind,
    address: IpAddr,
    timeout: Duration,
    tries: u32,
    ask: &Ask,
) -> Result<String, Failure> {
    if check.port == 0 {
        return Err(Failure::failed("a TCP check needs a port from 1 to 65535; set it in the module"));
    }
    let exchanges = pattern::exchanges(check)?;
    let address = SocketAddr::new(address, check.port);
    let mut why = String::new();
    for _ in 0..tries {
        ask.may_send()?;
        let deadline = Instant::now() + timeout;
        match timeout_at(deadline, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return talk(stream, kind, &exchanges, deadline, ask).await,
            Ok(Err(error)) if local_trouble(&error) => {
                // Not the target's fault: a 0 would raise a false alarm.
                return Err(Failure::failed(format!(
                    "no connection to {address} was tried: {error} on this node"
                )));
            }
            Ok(Err(error)) => why = format!("no connection to {address}: {error}"),
            Err(_) => why = format!("no connection to {address} within {} s", timeout.as_secs_f32()),
        }
    }
    match kind {
        Kind::Boolean => Ok("0".into()),
        _ => Err(Failure::Failed(why)),
    }
}

/// The node itself has no descriptors, memory or ports left.
pub(crate) fn local_trouble(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let local = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.iter().any(|e| *e as i32 == code))
        || error.kind() == ErrorKind::PermissionDenied
}

async fn talk(
    mut stream: TcpStream,
    kind: Kind,
    exchanges: &[Exchange],
    deadline: Instant,
    ask: &Ask,
) -> Result<String, Failure> {
    if kind == Kind::Boolean {
        for (i, exchange) in exchanges.iter().enumerate() {
            if !send(&mut stream, &exchange.send, deadline, ask).await? {
                return Ok("0".into());
            }
            let Some(expect) = &exchange.expect else { return Ok("1".into()) };
            let answer = read(&mut stream, Some(expect), deadline).await;
            if !expect.is_match(&answer) {
                return Ok("0".into());
            }
            if !exchanges[i + 1..].iter().any(|e| !e.send.is_empty()) {
                return Ok("1".into());
            }
        }
        return Ok("1".into());
    }
    let Some(exchange) = exchanges.first() else { return Err(Failure::failed("nothing to do")) };
    if !send(&mut stream, &exchange.send, deadline, ask).await? {
        return Err(Failure::failed("the connection was closed before all was sent"));
    }
    let answer = read(&mut stream, exchange.expect.as_ref(), deadline).await;
    pattern::value(&answer, kind)
}

/// False when the peer did not take it.
async fn send(stream: &mut TcpStream, bytes: &[u8], deadline: Instant, ask: &Ask) -> Result<bool, Failure> {
    if bytes.is_empty() {
        return Ok(true);
    }
    ask.may_send()?;
    Ok(matches!(timeout_at(deadline, stream.write_all(bytes)).await, Ok(Ok(()))))
}

/// What arrives until the expected text is in, the peer closes, the limit of bytes or the deadline is reached.
async fn read(stream: &mut TcpStream, expect: Option<&Regex>, deadline: Instant) -> Vec<u8> {
    let mut answer = Vec::with_capacity(512);
    let (mut reads, mut searched) = (0_usize, 0_usize);
    while answer.len() < MOST {
        let room = (MOST - answer.len()) as u64;
        match timeout_at(deadline, (&mut *stream).take(room).read_buf(&mut answer)).await {
            Ok(Ok(n)) if n > 0 => {}
            _ => break,
        }
        reads += 1;
        // A peer that drips single bytes must not make us search the whole answer for each of them.
        if reads <= 64 || answer.len() >= searched + searched / 8 {
            searched = answer.len();
            if expect.is_some_and(|e| e.is_match(&answer)) {
                break;
            }
        }
    }
    answer
}
