//! SNMP v1 and v2c: one get. The library behind it is named here and nowhere else.

use crate::{Ask, Failure};
use async_snmp::{Auth, Client, Oid, Retry, UdpTransport, Value};
use elpis_monitor::{Check, Kind};
use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};
use tokio::sync::OnceCell;

/// Sockets a family. The system keeps about 270 answers for one that is not read for a moment; after a takeover
/// thousands arrive at once.
const SOCKETS: usize = 32;

/// Sockets for all questions, by target; each opened with the first question.
#[derive(Default)]
pub(crate) struct Snmp {
    four: [OnceCell<UdpTransport>; SOCKETS],
    six: [OnceCell<UdpTransport>; SOCKETS],
}

/// What came of a get.
#[derive(Debug, PartialEq)]
pub(crate) enum Got {
    /// The value as plain text.
    Value(String),
    /// The target did not answer, or not with a value; why.
    Nothing(String),
}

impl Snmp {
    pub(crate) async fn get(
        &self,
        check: &Check,
        address: IpAddr,
        timeout: Duration,
        tries: u32,
        ask: &Ask,
    ) -> Result<Got, Failure> {
        let auth = match check.send.trim() {
            "2" | "2c" => Auth::v2c(check.community.as_str()),
            "3" => return Err(Failure::failed("SNMP version 3 is not supported yet; use version 1 or 2c")),
            _ => Auth::v1(check.community.as_str()),
        };
        let oid = Oid::from_str(check.oid.trim().trim_start_matches('.')).map_err(|error| {
            Failure::failed(format!(
                "{:?} is not a numeric SNMP object: {error}; write it as 1.3.6.1…",
                check.oid
            ))
        })?;
        let peer = SocketAddr::new(address, if check.port == 0 { 161 } else { check.port });
        let (cells, any) = if address.is_ipv4() { (&self.four, "0.0.0.0:0") } else { (&self.six, "[::]:0") };
        let transport = cells[place(address)]
            .get_or_try_init(|| UdpTransport::bind(any))
            .await
            .map_err(|error| Failure::failed(format!("no socket for SNMP on this node: {error}")))?;
        let client = Client::builder(peer, auth)
            .request_timeout(timeout)
            .retry(Retry::none())
            .build_with(transport)
            .await
            .map_err(|error| {
                Failure::failed(format!("the SNMP question to {peer} could not be made: {error}"))
            })?;
        let mut why = String::new();
        for _ in 0..tries {
            // Retries are ours, so that each packet asks the gate.
            ask.may_send()?;
            match client.get(&oid).await {
                Ok(response) => {
                    return Ok(match response.single().map(|binding| plain(&binding.value)) {
                        Some(Some(text)) => Got::Value(text),
                        Some(None) => Got::Nothing(format!("{peer} has no value for {}", check.oid)),
                        None => {
                            Got::Nothing(format!("{peer} answered with another object than {}", check.oid))
                        }
                    });
                }
                Err(error) => why = format!("no value of {} from {peer}: {error}", check.oid),
            }
        }
        Ok(Got::Nothing(why))
    }
}

/// Which socket asks this target.
fn place(address: IpAddr) -> usize {
    let sum = |bytes: &[u8]| {
        bytes.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
    };
    let number = match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    number % SOCKETS
}

/// A value without its type; surrounding quotes removed; `None` for "there is no such object".
fn plain(value: &Value) -> Option<String> {
    let text = match value {
        Value::Integer(n) => n.to_string(),
        Value::Counter32(n) | Value::Gauge32(n) | Value::UInteger32(n) | Value::TimeTicks(n) => n.to_string(),
        Value::Counter64(n) => n.to_string(),
        Value::OctetString(bytes) | Value::Opaque(bytes) | Value::Nsap(bytes) => {
            match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(" "),
            }
        }
        Value::ObjectIdentifier(oid) => oid.to_string(),
        Value::IpAddress(b) => std::net::Ipv4Addr::from(*b).to_string(),
        _ => return None,
    };
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    Some(quoted.unwrap_or(&text).to_owned())
}

/// From what was got to the value of a module.
pub(crate) fn judge(got: Result<Got, Failure>, kind: Kind, dead_is_zero: bool) -> Result<String, Failure> {
    match (got?, kind) {
        (Got::Value(text), Kind::Boolean) => Ok(if text.trim() == "1" { "1" } else { "0" }.into()),
        (Got::Nothing(_), Kind::Boolean) if dead_is_zero => Ok("0".into()),
        (Got::Nothing(why), _) => Err(Failure::Failed(why)),
        (Got::Value(text), Kind::Text) => Ok(text),
        (Got::Value(text), _) => match text.trim().parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(text.trim().to_owned()),
            _ => Err(Failure::failed(format!(
                "the SNMP value is not numeric: {:?}",
                text.chars().take(60).collect::<String>()
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_target_is_zero_or_an_error_by_setting() {
        let silent = || Ok(Got::Nothing("silent".into()));
        assert_eq!(judge(silent(), Kind::Boolean, true).unwrap(), "0");
        assert!(judge(silent(), Kind::Boolean, false).is_err());
        assert!(judge(silent(), Kind::Numeric, true).is_err());
    }

    #[test]
    fn values_become_what_the_type_wants() {
        let value = |v: &Value| Ok(Got::Value(plain(v).unwrap()));
        assert_eq!(judge(value(&Value::TimeTicks(4711)), Kind::Numeric, true).unwrap(), "4711");
        assert_eq!(judge(value(&Value::Integer(2)), Kind::Boolean, true).unwrap(), "0");
        assert_eq!(judge(value(&Value::Integer(1)), Kind::Boolean, true).unwrap(), "1");
        let text = Value::OctetString("\"up\"".as_bytes().to_vec().into());
        assert_eq!(judge(value(&text), Kind::Text, true).unwrap(), "up");
        assert!(judge(value(&text), Kind::Numeric, true).is_err());
        assert_eq!(plain(&Value::NoSuchObject), None);
    }
}
