//! UDP checks: one datagram out, one answer in. A boolean one is 1 when the expected text (or, with none, anything)
//! comes back in time.

use crate::{Ask, Failure, pattern, tcp::local_trouble};
use elpis_monitor::{Check, Kind};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

pub(crate) async fn run(
    check: &Check,
    kind: Kind,
    address: IpAddr,
    timeout: Duration,
    tries: u32,
    ask: &Ask,
) -> Result<String, Failure> {
    if check.port == 0 {
        return Err(Failure::failed("a UDP check needs a port from 1 to 65535; set it in the module"));
    }
    let exchanges = pattern::exchanges(check)?;
    let Some(exchange) = exchanges.first() else { return Err(Failure::failed("nothing to do")) };
    let peer = SocketAddr::new(address, check.port);
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut why = String::new();
    for _ in 0..tries {
        let deadline = Instant::now() + timeout;
        let asked = async {
            let socket = UdpSocket::bind((any, 0)).await?;
            // Connected: answers of others are not taken, and a closed port is told at once.
            socket.connect(peer).await?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = match asked.await {
            Ok(socket) => socket,
            Err(error) => return Err(Failure::failed(format!("no socket for {peer}: {error}"))),
        };
        ask.may_send()?;
        if let Err(error) = socket.send(&exchange.send).await {
            if local_trouble(&error) {
                return Err(Failure::failed(format!("nothing was sent to {peer}: {error} on this node")));
            }
            why = format!("nothing was sent to {peer}: {error}");
            continue;
        }
        let mut answer = vec![0; 2048];
        loop {
            match timeout_at(deadline, socket.recv(&mut answer)).await {
                Ok(Ok(n)) => {
                    let fits = exchange.expect.as_ref().is_none_or(|e| e.is_match(&answer[..n]));
                    match kind {
                        Kind::Boolean if fits => return Ok("1".into()),
                        _ if fits => return pattern::value(&answer[..n], kind),
                        _ => why = format!("no answer of {peer} had the expected text"),
                    }
                }
                Ok(Err(error)) => {
                    why = format!("no answer of {peer}: {error}");
                    break;
                }
                Err(_) => {
                    if why.is_empty() {
                        why = format!("no answer of {peer} within {} s", timeout.as_secs_f32());
                    }
                    break;
                }
            }
        }
    }
    match kind {
        Kind::Boolean => Ok("0".into()),
        _ => Err(Failure::Failed(why)),
    }
}
