//! Applying a command: pure, deterministic, total.

use super::{
    Applied, AuditLine, ClusterState, Command, Hold, JoinCode, MAX_AUDIT, MAX_FAILOVERS, MAX_JOINS,
    MAX_NODES, MAX_TEXT, Node, NodeState, Refused, Secret, Shard,
};
use crate::database::{self, Entry, Group};
use crate::update::{self, Rollout};
use elpis_watch::{Database, Job, NodeId};

type Outcome = Result<Applied, Refused>;

impl ClusterState {
    /// Applies the entry at `index`. A refused command leaves the state as it was.
    ///
    /// # Errors
    /// When the command does not fit the state; every member refuses the same ones.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        if let Command::Batch(commands) = command {
            // On a copy, so that a refusal in the middle leaves nothing behind.
            let mut next = self.clone();
            let mut done = Vec::with_capacity(commands.len());
            for command in commands {
                match command {
                    Command::Batch(_) => return Err(Refused::NestedBatch),
                    Command::CompleteMoves { shards } => {
                        // The old owner can only have acknowledged an epoch that an earlier entry named.
                        let shards = shards.iter().copied().filter(|(n, epoch)| self.names(*n, *epoch));
                        let command = Command::CompleteMoves { shards: shards.collect() };
                        done.push(next.apply(index, &command)?);
                    }
                    command => done.push(next.apply(index, command)?),
                }
            }
            *self = next;
            return Ok(Applied::Batch(done));
        }
        bounded(command)?;
        let outcome = self.apply_one(index, command)?;
        let silent = matches!(
            command,
            Command::Audit { .. }
                | Command::OpenJoin { .. }
                | Command::BurnJoin { .. }
                | Command::CodeReplaces { .. }
                | Command::FailoverSeen(_)
                | Command::Update(_)
                | Command::Profile(_)
        );
        if !silent && !matches!(outcome, Applied::Unchanged | Applied::Shards(0)) {
            self.revision = index;
        }
        Ok(outcome)
    }

    fn apply_one(&mut self, index: u64, command: &Command) -> Outcome {
        match command {
            Command::InitCluster { uuid, name } => self.init(uuid, name),
            Command::AdmitNode {
                uuid,
                name,
                spki,
                address,
                spool_address,
                console_address,
                version,
                gate_address,
            } => self.admit(index, {
                Node {
                    uuid: uuid.clone(),
                    name: name.clone(),
                    spki: spki.clone(),
                    address: address.clone(),
                    spool_address: spool_address.clone(),
                    console_address: console_address.clone(),
                    gate_address: gate_address.clone(),
                    version: version.clone(),
                    state: NodeState::Joining,
                    draining: false,
                    session: self.first_session(name),
                    up_index: 0,
                    hold: Hold::default(),
                }
            }),
            Command::UpdateNode { node, address, spool_address, console_address, version, gate_address } => {
                let node = self.member(*node)?;
                let before = node.clone();
                for (old, new) in [
                    (&mut node.address, address),
                    (&mut node.spool_address, spool_address),
                    (&mut node.console_address, console_address),
                    (&mut node.gate_address, gate_address),
                    (&mut node.version, version),
                ] {
                    if !new.is_empty() {
                        old.clone_from(new);
                    }
                }
                Ok(done_if(*node != before))
            }
            Command::LeaseOver { node, session, at_ms, .. } => self.lease_over(*node, *session, *at_ms),
            Command::NodeUp { node, session } => {
                let id = *node;
                let node = self.member(id)?;
                if node.session != *session {
                    return Err(Refused::StaleSession { node: id, given: *session, current: node.session });
                }
                if node.live() {
                    return Ok(Applied::Unchanged);
                }
                node.state = NodeState::Up;
                node.up_index = index;
                Ok(Applied::Done)
            }
            Command::Drain { node } => {
                let node = self.member(*node)?;
                Ok(done_if(!std::mem::replace(&mut node.draining, true)))
            }
            Command::Undrain { node } => {
                let node = self.member(*node)?;
                Ok(done_if(std::mem::replace(&mut node.draining, false)))
            }
            Command::Remove { node } => self.remove(*node),
            Command::Assign { shards } => Ok(self.assign(shards)),
            Command::Release { shards } => Ok(self.release(shards)),
            Command::CompleteMoves { shards } => Ok(self.complete(shards)),
            Command::AbortMoves { shards, .. } => Ok(self.abort(shards)),
            Command::SetJob { name, node } => {
                if !self.live(*node) {
                    return Err(Refused::NotLive(*node));
                }
                let job = self.jobs.entry(name.clone()).or_insert(Job { node: 0, epoch: 0 });
                if job.node == *node {
                    return Ok(Applied::Unchanged);
                }
                *job = Job { node: *node, epoch: job.epoch + 1 };
                Ok(Applied::Done)
            }
            Command::Address { address, keep } => self.virtual_address(address, *keep),
            Command::SetDatabase { url, user, password, mode, ready } => {
                let old = self.database.as_ref();
                let same = old.is_some_and(|old| {
                    (&old.url, &old.user, &old.password, &old.mode) == (url, user, &password.0, mode)
                });
                if same && old.is_some_and(|old| old.ready == *ready) {
                    return Ok(Applied::Unchanged);
                }
                let epoch = old.map_or(0, |old| old.epoch) + u64::from(!same);
                self.database = Some(Database {
                    epoch,
                    url: url.clone(),
                    user: user.clone(),
                    password: password.0.clone(),
                    mode: mode.clone(),
                    ready: *ready,
                    primary: 0,
                });
                Ok(Applied::Done)
            }
            Command::AccountsMade { epoch, made, dropped } => Ok(self.accounts_made(*epoch, made, dropped)),
            Command::Database(entry) => self.group_entry(entry),
            Command::Update(entry) => {
                Rollout::apply(&mut self.rollout, entry).map(done_if).map_err(Refused::Update)
            }
            Command::Profile(change) => {
                let members = self.members().map(|(id, _)| id).collect();
                Ok(done_if(self.profile.apply(change, &members)))
            }
            Command::ConfigChanged => {
                self.config_revision += 1;
                Ok(Applied::Done)
            }
            Command::OpenJoin { code, verifier, expires_ms, tries } => {
                // A spent one makes room, or the oldest by expiry: a code is a convenience, not a promise.
                while self.joins.len() >= MAX_JOINS && !self.joins.contains_key(code) {
                    let oldest = self
                        .joins
                        .iter()
                        .min_by_key(|(_, join)| (join.tries > 0, join.expires_ms))
                        .map(|(code, _)| code.clone());
                    if let Some(oldest) = oldest {
                        self.joins.remove(&oldest);
                    }
                }
                let verifier = Secret(verifier.clone());
                let join = JoinCode { verifier, expires_ms: *expires_ms, tries: *tries, replaces: None };
                self.joins.insert(code.clone(), join);
                Ok(Applied::Done)
            }
            Command::CodeReplaces { code, node } => {
                self.lifeless(*node)?;
                let Some(join) = self.joins.get_mut(code) else {
                    return Err(Refused::NoSuchCode(code.clone()));
                };
                Ok(done_if(join.replaces.replace(*node) != Some(*node)))
            }
            Command::Replace { node } => {
                self.lifeless(*node)?;
                self.remove(*node)
            }
            Command::BurnJoin { code, whole } => {
                // A spent code stays, so that who brings it hears that it is spent, not that the words are wrong.
                let Some(join) = self.joins.get_mut(code).filter(|join| join.tries > 0) else {
                    return Err(Refused::NoSuchCode(code.clone()));
                };
                join.tries = if *whole { 0 } else { join.tries - 1 };
                Ok(Applied::Done)
            }
            Command::Audit { at_ms, who, what } => {
                self.audit.push(AuditLine { index, at_ms: *at_ms, who: who.clone(), what: what.clone() });
                let over = self.audit.len().saturating_sub(MAX_AUDIT);
                self.audit.drain(..over);
                Ok(Applied::Done)
            }
            Command::FailoverSeen(seen) => {
                match self.failovers.iter_mut().find(|old| (old.node, old.at_ms) == (seen.node, seen.at_ms)) {
                    Some(old) => *old = seen.clone(),
                    None => self.failovers.push(seen.clone()),
                }
                let over = self.failovers.len().saturating_sub(MAX_FAILOVERS);
                self.failovers.drain(..over);
                Ok(Applied::Done)
            }
            Command::Batch(_) => Err(Refused::NestedBatch),
        }
    }

    fn init(&mut self, uuid: &str, name: &str) -> Outcome {
        if !self.uuid.is_empty() {
            return if self.uuid == uuid {
                Ok(Applied::Unchanged)
            } else {
                Err(Refused::AlreadyInitialised(self.name.clone()))
            };
        }
        self.uuid = uuid.to_owned();
        self.name = name.to_owned();
        Ok(Applied::Done)
    }

    fn admit(&mut self, index: u64, new: Node) -> Outcome {
        for (id, old) in &self.nodes {
            if old.uuid == new.uuid || old.spki == new.spki {
                // The same node asking again after it lost the answer.
                let again = old.uuid == new.uuid && old.spki == new.spki;
                return match (again, old.state == NodeState::Removed) {
                    (true, false) => Ok(Applied::Admitted(*id)),
                    (true, true) => Err(Refused::Removed(*id)),
                    (false, _) => Err(Refused::IdentityTaken(*id)),
                };
            }
        }
        if self.members().any(|(_, old)| old.name == new.name) {
            return Err(Refused::NameTaken(new.name));
        }
        let count = self.members().count();
        if count >= MAX_NODES || self.nodes.contains_key(&index) {
            return Err(Refused::TooManyNodes(count));
        }
        self.nodes.insert(index, new);
        Ok(Applied::Admitted(index))
    }

    fn lease_over(&mut self, id: NodeId, session: u64, at_ms: i64) -> Outcome {
        let node = self.member(id)?;
        if node.session != session {
            return Err(Refused::StaleSession { node: id, given: session, current: node.session });
        }
        if !node.live() {
            return Err(Refused::NotLive(id));
        }
        node.state = NodeState::Down;
        if !crate::planted::on("session-not-raised") {
            node.session += 1;
        }
        node.hold.lost(at_ms);
        for shard in self.shards.iter_mut() {
            // From the dead: the shard waits for an assignment. To the dead: the old owner gets it back.
            if shard.to.is_some() && shard.owner == id {
                shard.to = None;
            } else if shard.to == Some(id) {
                shard.give(shard.owner);
            }
        }
        Ok(Applied::Done)
    }

    fn remove(&mut self, id: NodeId) -> Outcome {
        let owns = self.shards.iter().any(|shard| shard.owner == id || shard.to == Some(id))
            || self.jobs.values().any(|job| job.node == id);
        let node = self.member(id)?;
        if node.live() && owns {
            return Err(Refused::StillOwns(id));
        }
        node.state = NodeState::Removed;
        node.session += 1;
        Ok(Applied::Done)
    }

    /// Refuses a node that lives: it is not to be replaced.
    fn lifeless(&mut self, id: NodeId) -> Result<(), Refused> {
        if self.member(id)?.live() { Err(Refused::StillLives(id)) } else { Ok(()) }
    }

    fn accounts_made(&mut self, epoch: u64, made: &[NodeId], dropped: &[NodeId]) -> Applied {
        let before = self.accounts.clone();
        for id in dropped {
            if self.nodes.get(id).is_none_or(|node| node.state == NodeState::Removed) {
                self.accounts.remove(id);
            }
        }
        // Another database by now: nothing is made there. A node removed by now: its accounts are to be dropped.
        if self.database.as_ref().is_some_and(|database| database.epoch == epoch) {
            let known = made.iter().filter(|id| self.nodes.contains_key(id));
            self.accounts.extend(known.map(|id| (*id, epoch)));
        }
        done_if(self.accounts != before)
    }

    fn group_entry(&mut self, entry: &Entry) -> Outcome {
        if let Entry::Adopt { without, .. } = entry
            && let Some(back) = without.iter().find(|node| self.live(**node))
        {
            return Err(Refused::StillLives(*back));
        }
        match (entry, &mut self.group) {
            (Entry::Formed { primary }, None) => self.group = Some(Group::new(*primary)),
            (Entry::Formed { .. }, Some(_)) => return Ok(Applied::Unchanged),
            (_, None) => return Err(Refused::Database(database::Refused::NotFit)),
            (entry, Some(group)) => {
                let before = group.clone();
                group.apply(entry).map_err(Refused::Database)?;
                return Ok(done_if(*group != before));
            }
        }
        Ok(Applied::Done)
    }

    fn assign(&mut self, shards: &[(u16, NodeId)]) -> Applied {
        self.each(
            shards,
            |state, shard, to| !state.live(shard.owner) && state.live(to),
            |shard, to| shard.give(to),
        )
    }

    fn release(&mut self, shards: &[(u16, NodeId)]) -> Applied {
        self.each(
            shards,
            |state, shard, to| {
                shard.to.is_none() && shard.owner != to && state.live(shard.owner) && state.live(to)
            },
            |shard, to| {
                shard.named += 1;
                shard.to = Some(to);
            },
        )
    }

    /// Whether a move of this shard is under way with this epoch.
    fn names(&self, shard: u16, epoch: u64) -> bool {
        self.shards.get(usize::from(shard)).is_some_and(|shard| shard.to.is_some() && shard.named == epoch)
    }

    fn complete(&mut self, shards: &[(u16, u64)]) -> Applied {
        self.each(
            shards,
            |state, shard, epoch| shard.named == epoch && shard.to.is_some_and(|to| state.live(to)),
            |shard, epoch| {
                if let Some(to) = shard.to.take() {
                    shard.owner = to;
                    shard.epoch = epoch;
                }
            },
        )
    }

    fn abort(&mut self, shards: &[(u16, u64)]) -> Applied {
        self.each(
            shards,
            |_, shard, epoch| shard.named == epoch && shard.to.is_some(),
            |shard, _| {
                if crate::planted::on("release-taken-back") {
                    shard.to = None;
                    shard.named -= 1;
                } else {
                    shard.give(shard.owner);
                }
            },
        )
    }

    /// Changes those of the shards that still fit; a list planned on an older state must not undo what came between.
    fn each<T: Copy>(
        &mut self,
        list: &[(u16, T)],
        fits: impl Fn(&ClusterState, Shard, T) -> bool,
        change: impl Fn(&mut Shard, T),
    ) -> Applied {
        let mut count = 0;
        for (number, argument) in list {
            let Some(shard) = self.shards.get(usize::from(*number)).copied() else {
                continue;
            };
            if fits(self, shard, *argument) {
                change(&mut self.shards[usize::from(*number)], *argument);
                count += 1;
            }
        }
        Applied::Shards(count)
    }

    pub(super) fn member(&mut self, id: NodeId) -> Result<&mut Node, Refused> {
        match self.nodes.get_mut(&id) {
            None => Err(Refused::UnknownNode(id)),
            Some(node) if node.state == NodeState::Removed => Err(Refused::Removed(id)),
            Some(node) => Ok(node),
        }
    }
}

impl Shard {
    /// A new owner with an epoch that was never named before.
    fn give(&mut self, owner: NodeId) {
        self.named += 1;
        self.epoch = self.named;
        self.owner = owner;
        self.to = None;
    }
}

fn done_if(changed: bool) -> Applied {
    if changed { Applied::Done } else { Applied::Unchanged }
}

/// Refuses texts that would make the state grow beyond reason.
fn bounded(command: &Command) -> Result<(), Refused> {
    let texts: &[&String] = match command {
        Command::InitCluster { uuid, name } => &[uuid, name],
        Command::AdmitNode {
            uuid,
            name,
            spki,
            address,
            spool_address,
            console_address,
            version,
            gate_address,
        } => &[uuid, name, spki, address, spool_address, console_address, version, gate_address],
        Command::UpdateNode { address, spool_address, console_address, version, gate_address, .. } => {
            &[address, spool_address, console_address, version, gate_address]
        }
        Command::SetJob { name, .. } => &[name],
        Command::SetDatabase { url, user, password, mode, .. } => &[url, user, &password.0, mode],
        Command::OpenJoin { code, verifier, .. } => &[code, verifier],
        Command::CodeReplaces { code, .. } => &[code],
        Command::Audit { who, what, .. } => &[who, what],
        Command::FailoverSeen(seen) => &[&seen.name, &seen.reason],
        Command::Update(update::Entry::Begin { image, turns, .. }) => {
            if turns.len() > MAX_NODES {
                return Err(Refused::TooManyNodes(turns.len()));
            }
            &[&image.version, &image.sha256]
        }
        Command::Update(update::Entry::Stop { why, .. }) => &[why],
        _ => &[],
    };
    match texts.iter().find(|text| text.len() > MAX_TEXT) {
        Some(text) => Err(Refused::TooLong(text.chars().take(32).collect())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
