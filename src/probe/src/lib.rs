//! Network checks: one probe in, one result out.
//!
//! [`Prober`] speaks TCP, UDP, SNMP and ICMP, thousands at once on one core, every one with its own time limit and with
//! a bound on how many run against one target. Before each packet it asks its gate whether it may still act: a node
//! without a lease sends nothing.
//! Invariant: nothing here knows SQL, shards or thresholds; a result is the text that was found or the reason why not.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bound;
mod icmp;
mod pattern;
mod snmp;
mod target;
mod tcp;
mod udp;

use elpis_monitor::{Check, ModuleType};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Asked right before each packet; `false` = nothing may leave.
pub type Gate = Arc<dyn Fn() -> bool + Send + Sync>;

/// Time limits, tries and bounds where a module has none of its own (`pandora_server.conf`).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `network_timeout`: wait for an echo answer.
    pub icmp_timeout: Duration,
    /// `icmp_checks`.
    pub icmp_checks: u32,
    /// `icmp_packets`.
    pub icmp_packets: u32,
    /// `tcp_timeout`; also for UDP.
    pub tcp_timeout: Duration,
    /// `tcp_checks`; also for UDP.
    pub tcp_checks: u32,
    /// `snmp_timeout`.
    pub snmp_timeout: Duration,
    /// `snmp_checks`.
    pub snmp_checks: u32,
    /// `snmp_proc_deadresponse`: a boolean SNMP module without answer is 0 instead of an error.
    pub snmp_dead_is_zero: bool,
    /// Probes against one address at the same time.
    pub per_target: usize,
    /// Probes in all at the same time.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            icmp_timeout: Duration::from_secs(5),
            icmp_checks: 1,
            icmp_packets: 1,
            tcp_timeout: Duration::from_secs(20),
            tcp_checks: 1,
            snmp_timeout: Duration::from_secs(8),
            snmp_checks: 1,
            snmp_dead_is_zero: true,
            per_target: 32,
            in_flight: 4096,
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The value as text.
    Data(String),
    /// No value: what happened and why.
    Error(String),
    /// The gate closed before the probe was done: it is no result at all.
    Withdrawn,
}

/// Outcome and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// What was found.
    pub outcome: Outcome,
    /// From the first packet to the outcome (waiting for a free place is not in it).
    pub elapsed: Duration,
}

/// Why a probe has no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Failed(String),
    #[error("the lease ran out while the probe was under way")]
    Withdrawn,
}

impl Failure {
    pub(crate) fn failed(text: impl Into<String>) -> Failure {
        Failure::Failed(text.into())
    }
}

/// The gate as the kinds see it.
#[derive(Clone)]
pub(crate) struct Ask(Gate);

impl Ask {
    pub(crate) fn may_send(&self) -> Result<(), Failure> {
        if (self.0)() { Ok(()) } else { Err(Failure::Withdrawn) }
    }
}

/// Runs network checks. Cheap to share; all methods take `&self`.
pub struct Prober {
    limits: Limits,
    ask: Ask,
    places: Arc<Semaphore>,
    targets: bound::Targets,
    resolver: target::Resolver,
    icmp: icmp::Engine,
    snmp: snmp::Snmp,
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Prober {
    /// A prober whose every packet asks `gate` first. Sockets are opened when first needed.
    pub fn new(limits: Limits, gate: Gate) -> Prober {
        Prober {
            places: Arc::new(Semaphore::new(limits.in_flight.max(1))),
            targets: bound::Targets::new(limits.per_target.max(1)),
            resolver: target::Resolver::default(),
            icmp: icmp::Engine::default(),
            snmp: snmp::Snmp::default(),
            ask: Ask(gate),
            limits,
        }
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs one check of a module of type `kind` against `target` (host name or address, `auto` already replaced).
    pub async fn run(&self, check: &Check, kind: ModuleType, target: &str) -> ProbeResult {
        let Ok(_place) = self.places.acquire().await else {
            return ProbeResult { outcome: Outcome::Withdrawn, elapsed: Duration::ZERO };
        };
        let address =
            match self.resolver.resolve(target, self.timeout_of(check, self.limits.tcp_timeout)).await {
                Ok(address) => address,
                Err(failure) => {
                    return ProbeResult { outcome: outcome(Err(failure)), elapsed: Duration::ZERO };
                }
            };
        let _turn = self.targets.acquire(address).await;
        let start = tokio::time::Instant::now();
        let found = match kind.id() {
            6 | 7 => {
                let job = icmp::Job {
                    address,
                    timeout: self.timeout_of(check, self.limits.icmp_timeout),
                    tries: tries(check, self.limits.icmp_checks),
                    packets: self.limits.icmp_packets.clamp(1, 16),
                };
                if kind.id() == 6 {
                    self.icmp.reachable(&job, &self.ask).await
                } else {
                    self.icmp.round_trip(&job, &self.ask).await
                }
            }
            8..=11 => {
                let timeout = self.timeout_of(check, self.limits.tcp_timeout);
                tcp::run(
                    check,
                    kind.kind(),
                    address,
                    timeout,
                    tries(check, self.limits.tcp_checks),
                    &self.ask,
                )
                .await
            }
            12..=14 => {
                let timeout = self.timeout_of(check, self.limits.tcp_timeout);
                udp::run(
                    check,
                    kind.kind(),
                    address,
                    timeout,
                    tries(check, self.limits.tcp_checks),
                    &self.ask,
                )
                .await
            }
            15..=18 => {
                let timeout = self.timeout_of(check, self.limits.snmp_timeout);
                let tries = tries(check, self.limits.snmp_checks);
                // Large and rare next to the others: boxed, so that a waiting TCP probe does not carry its size.
                let get = Box::pin(self.snmp.get(check, address, timeout, tries, &self.ask)).await;
                snmp::judge(get, kind.kind(), self.limits.snmp_dead_is_zero)
            }
            id => Err(Failure::failed(format!(
                "module type {} ({id}) is not a network check; give the module one of the types 6 to 18",
                kind.name()
            ))),
        };
        ProbeResult { outcome: outcome(found), elapsed: start.elapsed() }
    }

    fn timeout_of(&self, check: &Check, default: Duration) -> Duration {
        // An hour is longer than anybody means; a hostile or mistyped column must not hold a place for ever.
        if check.timeout_s > 0 { Duration::from_secs(u64::from(check.timeout_s.min(3600))) } else { default }
    }
}

fn tries(check: &Check, default: u32) -> u32 {
    (if check.retries > 0 { check.retries } else { default }).clamp(1, 100)
}

fn outcome(found: Result<String, Failure>) -> Outcome {
    match found {
        Ok(text) => Outcome::Data(text),
        Err(Failure::Failed(text)) => Outcome::Error(text),
        Err(Failure::Withdrawn) => Outcome::Withdrawn,
    }
}
