//! What a lane does with files: agents and modules resolved, values judged, everything into the open batch.

use super::agents::Resolved;
use super::facts::facts;
use super::lane::Lane;
use super::scan::{Content, Parsed};
use super::suspects::Suspicion;
use aws_lc_rs::digest;
use elpis_agentxml::AgentReport;
use elpis_monitor::{
    AgentId, Context, Event, EventType, GroupId, ModuleId, Settings, Severity, Shard, Status, process,
};
use elpis_store::CommitError;
use elpis_tentacle::spool::{Entry, EntryId, Header, Spool};
use jiff::tz::TimeZone;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::sleep;

const AGAIN: Duration = Duration::from_millis(100);

/// Why a lane cannot go on with its files.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// The session is over, or what is in memory is stale.
    Again,
}

/// What happens to a file once its batch stands.
#[derive(Debug)]
pub(super) enum Finish {
    Done(Entry),
    /// With the reason as JSON.
    Bad(Entry, String),
}

impl Finish {
    pub(super) fn place(&self) -> (u16, EntryId) {
        let (Finish::Done(entry) | Finish::Bad(entry, _)) = self;
        (entry.shard, entry.id)
    }

    /// Blocks on the disk.
    pub(super) fn apply(&self, spool: &Spool) {
        let (entry, applied) = match self {
            Finish::Done(entry) => (entry, spool.done(entry)),
            Finish::Bad(entry, reason) => (entry, spool.bad(entry, reason)),
        };
        match applied {
            Err(error) if !error.is_gone() => {
                tracing::warn!(entry = %entry.id, %error, "a processed file could not be moved; it is skipped next time");
            }
            _ => {}
        }
    }
}

impl Lane {
    /// Takes files in their order into the open batch. A suspect has a batch to itself; what follows it waits.
    pub(super) async fn take_files(&mut self, parsed: Vec<Parsed>) -> Result<(), Stop> {
        let parsed: Vec<Parsed> =
            parsed.into_iter().filter(|file| self.shards.is_held(file.entry.shard)).collect();
        if parsed.is_empty() {
            return Ok(());
        }
        let known = self.known(&parsed).await?;
        let zone = TimeZone::system();
        let mut parsed = parsed.into_iter();
        while let Some(Parsed { entry, content }) = parsed.next() {
            let key = key_of(&content, &entry);
            let suspicion = self.suspects.of(&key);
            let alone = matches!(suspicion, Some(Suspicion::Alone));
            if alone && !(self.pack.is_empty() && self.finish.is_empty()) {
                self.waiting.push(Parsed { entry, content });
                self.waiting.extend(parsed);
                return Ok(());
            }
            if known.contains(&key) || !self.pending.insert(key) {
                // Its samples stand already, or will before this entry goes.
                self.finish.push(Finish::Done(entry));
                continue;
            }
            let keep = match (content, suspicion) {
                (Content::Report(header, _), Some(Suspicion::Guilty(why))) => {
                    self.set_aside(entry, &header.name, header.receive_ms, &why, None);
                    true
                }
                (Content::Report(header, report), _) => {
                    self.take_report(entry, &header, &report, &zone).await?
                }
                (Content::Bad(header, why, line), _) => {
                    self.set_aside(entry, &header.name, header.receive_ms, &why, line);
                    true
                }
                (Content::Damaged(why), _) => {
                    let (name, received) = (format!("{}.entry", entry.id), entry.id.receive_ms);
                    self.set_aside(entry, &name, received, &why, None);
                    true
                }
            };
            if keep {
                self.pack.report(key);
            } else {
                self.pending.remove(&key);
            }
            if alone {
                self.waiting.extend(parsed);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn known(&self, parsed: &[Parsed]) -> Result<HashSet<[u8; 32]>, Stop> {
        let keys: Vec<[u8; 32]> = parsed.iter().map(|file| key_of(&file.content, &file.entry)).collect();
        loop {
            self.base.health.begin("reports");
            match self.base.store.known_reports(&keys).await {
                Ok(known) => {
                    self.base.health.ok("reports");
                    return Ok(known);
                }
                Err(error) => self.base.health.failed("reports", &error),
            }
            sleep(AGAIN).await;
        }
    }

    /// `false` = it was handed on to another shard: no report of ours.
    async fn take_report(
        &mut self,
        entry: Entry,
        header: &Header,
        report: &AgentReport,
        zone: &TimeZone,
    ) -> Result<bool, Stop> {
        if report.server_name().is_some() {
            // A server's sign of life, no agent.
            self.finish.push(Finish::Done(entry));
            return Ok(true);
        }
        let facts = match facts(report, header.receive_ms.div_euclid(1000), zone) {
            Ok(facts) => facts,
            Err(error) => {
                self.set_aside(entry, &header.name, header.receive_ms, &error.to_string(), error.line());
                return Ok(true);
            }
        };
        let shard = Shard::of_agent(&facts.name).number();
        if shard != entry.shard && !header.forwarded {
            self.forward(entry, shard).await;
            return Ok(false);
        }
        if shard != entry.shard {
            let why =
                "the file was forwarded before and its agent belongs to yet another shard; send it again";
            self.set_aside(entry, &header.name, header.receive_ms, why, None);
            return Ok(true);
        }
        match self.resolve(&facts, report, zone).await {
            Ok(Some(resolved)) => self.judge(resolved, facts.time),
            Ok(None) => {}
            Err(CommitError::NotDone(error)) if error.is_for_good() => {
                self.set_aside(entry, &header.name, header.receive_ms, &error.to_string(), None);
                return Ok(true);
            }
            Err(error) => {
                tracing::warn!(agent = %facts.name, %error, "the agent could not be written");
                return Err(Stop::Again);
            }
        }
        self.finish.push(Finish::Done(entry));
        Ok(true)
    }

    async fn forward(&mut self, entry: Entry, shard: u16) {
        let (spool, id, from) = (self.spool.clone(), entry.id, entry.shard);
        let forwarded = tokio::task::spawn_blocking(move || spool.forward(&entry, shard)).await;
        if let Ok(Err(error)) = forwarded {
            tracing::warn!(entry = %id, %error, "a file of another shard could not be handed on; trying again");
        }
        if let Some(scanner) = self.scanner.as_mut() {
            scanner.again(from, id);
        }
    }

    fn set_aside(&mut self, entry: Entry, name: &str, received_ms: i64, why: &str, line: Option<usize>) {
        let reason = serde_json::json!({
            "version": 1, "file": name, "received_ms": received_ms, "error": why, "line": line,
        });
        self.pack.event(Event {
            agent: AgentId(0),
            module: ModuleId(0),
            group: GroupId(0),
            event_type: EventType::Error,
            severity: Severity::Maintenance,
            text: format!("Data file {name} was refused: {why}"),
            utimestamp: self.base.link.cluster_now_ms().div_euclid(1000),
            validated: false,
            validates_earlier: false,
            data: String::new(),
            status: Status::NotInit,
        });
        self.finish.push(Finish::Bad(entry, reason.to_string()));
    }

    fn judge(&mut self, resolved: Resolved, time: i64) {
        let Resolved { agent: id, values, learn } = resolved;
        let now = self.base.link.cluster_now_ms().div_euclid(1000);
        let settings: &Settings = &self.settings;
        let ctx = Context { now, local_offset_s: self.offset_s, mute: false, settings };
        let Some(agent) = self.roster.get_mut(id) else { return };
        for (module, reading) in values {
            let Some(held) = agent.position(module).and_then(|at| agent.modules.get_mut(at)) else {
                continue;
            };
            let outcome = process(&agent.agent, &held.module, &held.state, &reading, &ctx);
            // Newer than all that came before: nothing can stand in its second.
            let newest = held.state.timestamp.max(held.state.last_try);
            if let Some((second, _)) = outcome.row.as_ref().filter(|(second, _)| *second <= newest) {
                self.pack.may_stand(module, *second);
            }
            held.state = self.pack.add(&agent.agent, &held.module, outcome);
            agent.seen.record(held.module.position, false, &held.state);
        }
        self.pack.touch(id);
        self.pack.learn(learn);
        tracing::trace!(agent = %agent.agent.name, time, "report taken in");
    }
}

/// The report's key; of a damaged entry, one made of its id.
fn key_of(content: &Content, entry: &Entry) -> [u8; 32] {
    let mut key = [0; 32];
    match content {
        Content::Report(header, _) | Content::Bad(header, ..) => {
            for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
                let digits = header.key.get(at..at + 2).unwrap_or_default();
                *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
            }
        }
        Content::Damaged(_) => {
            let hash = digest::digest(&digest::SHA256, format!("damaged {}", entry.id).as_bytes());
            key.copy_from_slice(hash.as_ref());
        }
    }
    key
}
