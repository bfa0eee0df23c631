//! What is done.

use super::{Nodes, Probe, Starts, Supervisor};
use crate::Error;
use crate::copy::Copying;
use crate::rows::Purpose;
use crate::sql::{
    ACCOUNTS, DUMPS, HAS_FENCE, HAS_TABLES, Sql, TABLES, admin_account, change_master, primary_id, quoted,
    replica_id, replication_account, text,
};
use elpis_cluster::agent::database::{Context, Task};
use elpis_cluster::database::Action;
use elpis_watch::{NodeId, Traffic};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The gate obeys within this, or it hangs and is killed by the node agent.
const GATE: Duration = Duration::from_secs(3);
/// So long the way to a source is waited for to be cut; without that, stopping only takes longer.
const CUT: Duration = Duration::from_millis(300);

impl Supervisor {
    pub(super) async fn act(&mut self, action: &Action, task: &Task) -> Result<(), Error> {
        if !matches!(action, Action::WriteFence { .. } | Action::Heartbeat { .. }) {
            tracing::info!(?action, "database");
        }
        match action {
            Action::Install => {
                self.events.say("database", "the first copy of the database is made here");
                self.folder.install().await
            }
            Action::Start { master } => {
                self.server.start(&self.config, *master, replica_id(task.context.node))
            }
            Action::Kill => self.server.kill().await,
            Action::StopIo => {
                self.cut = true;
                let number = self.order_gate(None, &BTreeSet::new());
                if self.gate.obeyed(number, CUT).await.is_none() {
                    tracing::warn!("the gate does not cut the way to the source in time");
                }
                self.sql.run("stopping to receive", "STOP SLAVE IO_THREAD").await
            }
            Action::Leave => {
                self.cut = true;
                self.order_gate(None, &BTreeSet::new());
                self.sql.run("leaving the source", "STOP SLAVE; RESET SLAVE ALL").await?;
                self.source.set(None)
            }
            Action::Follow { primary, acks } => self.follow(*primary, *acks, &task.context).await,
            Action::StartSql => self.sql.run("applying", "START SLAVE SQL_THREAD").await,
            Action::SetAcks { on } => {
                self.sql.run("stopping to receive", "STOP SLAVE IO_THREAD").await?;
                self.sql.run("acknowledging", if *on { ACKS_ON } else { ACKS_OFF }).await?;
                self.reach_source(self.source.node()).await?;
                self.sql.run("receiving", "START SLAVE IO_THREAD").await
            }
            Action::SetSemiMaster { on } => {
                self.turn += 1;
                self.rows.clear();
                // The probe under way is given up with the others.
                self.probe = Probe::default();
                self.sql.run("waiting for acknowledgements", if *on { WAITS_ON } else { WAITS_OFF }).await
            }
            Action::WriteFence { epoch } => self.write_fence(*epoch, &task.context).await,
            Action::Open { epoch } => {
                self.sql.run("opening", "SET GLOBAL read_only=0").await?;
                self.memory.leading = Some(*epoch);
                self.events.say("database", &format!("this node's database is the primary of epoch {epoch}"));
                Ok(())
            }
            Action::Close => {
                let now = self.gate.now().unwrap_or_default();
                let number = self.gate.set(&Traffic { serve: None, ..now });
                if self.gate.obeyed(number, CUT).await.is_none() {
                    return Err(Error::Other(
                        "the database gate of this node does not close in time".to_owned(),
                    ));
                }
                // Waits behind a commit that is not acknowledged: not for long, the order may change.
                self.sql.run_soon("closing", "SET GLOBAL read_only=1").await?;
                self.memory.leading = None;
                Ok(())
            }
            Action::Block { nodes } => {
                self.turn += 1;
                let blocked = self.block(nodes, &task.context).await;
                if blocked.is_err() {
                    self.memory.blocked = None;
                }
                blocked
            }
            Action::Heartbeat { .. } => self.rows.write(Purpose::Heartbeat, self.turn, &[]),
            Action::Rebuild { primary } => {
                self.server.kill().await?;
                self.source.set(None)?;
                self.starts = Starts::default();
                self.copying = Some(Copying::begin(&self.folder, *primary));
                if self.copy_failed.is_empty() {
                    self.events.say("database", "a new copy of the database is fetched from the primary");
                }
                Ok(())
            }
        }
    }

    /// Tells the gate from whom this server may replicate and who may not from it; statements are
    /// [`direct_traffic`](Supervisor::direct_traffic)'s.
    fn order_gate(&self, source: Option<NodeId>, refuse: &Nodes) -> u64 {
        let now = self.gate.now().unwrap_or_default();
        self.gate.set(&Traffic { source, refuse: refuse.clone(), ..now })
    }

    /// Opens the way to a source; the answer is the port at which it is reached.
    async fn reach_source(&mut self, source: Option<NodeId>) -> Result<u16, Error> {
        self.cut = false;
        let number = self.order_gate(source, &BTreeSet::new());
        let port = self.gate.obeyed(number, GATE).await;
        port.ok_or_else(|| Error::Other("the database gate of this node does not answer".to_owned()))
    }

    async fn follow(&mut self, primary: NodeId, acks: bool, context: &Context) -> Result<(), Error> {
        let login = context.replication.get(&context.node);
        let login = login.ok_or_else(|| Error::Other("this node has no replication account".to_owned()))?;
        // Whoever waits for the old source must not be waited for.
        self.order_gate(None, &BTreeSet::new());
        self.sql.run("stopping replication", "STOP SLAVE").await?;
        let port = self.reach_source(Some(primary)).await?;
        if self.local.source.is_none() {
            self.sql.run("taking up its position", FROM_BINLOG).await?;
        }
        let id = replica_id(context.node);
        self.sql.run_made("a replica's server_id", format!("SET GLOBAL server_id={id}")).await?;
        self.sql.run("acknowledging", if acks { ACKS_ON } else { ACKS_OFF }).await?;
        self.source.set(Some((primary, port)))?;
        self.sql.run_made("a source", change_master(port, login)?).await?;
        self.sql.run("replication", "START SLAVE").await
    }

    async fn write_fence(&mut self, epoch: u64, context: &Arc<Context>) -> Result<(), Error> {
        let id = primary_id(epoch);
        self.sql.run_made("a primary's server_id", format!("SET GLOBAL server_id={id}")).await?;
        // A session's own is as it was when it began, and a position names the last transaction with the server's own.
        self.sql.forget();
        let numbered = Some((self.local.instance, epoch));
        if self.numbered != numbered {
            self.numbered = numbered;
            self.rows.clear();
            self.probe = Probe::default();
        }
        if !self.has(HAS_TABLES).await? {
            self.sql.run("the group's tables", TABLES).await?;
        }
        let rows = if self.has(HAS_FENCE).await? { context.fence.as_slice() } else { &[] };
        self.rows.write(Purpose::Fence { epoch }, self.turn, rows)
    }

    async fn has(&mut self, question: &'static str) -> Result<bool, Error> {
        let rows = self.sql.ask("a look at its tables", question).await?;
        Ok(rows.first().is_some_and(|row| text(row, "n") != "0"))
    }

    /// Keeps these nodes away: nothing of them is open any more when this returns.
    async fn block(&mut self, nodes: &Nodes, context: &Context) -> Result<(), Error> {
        if nodes.is_empty() {
            return Ok(());
        }
        let number = self.order_gate(None, nodes);
        if self.gate.obeyed(number, GATE).await.is_none() {
            return Err(Error::Other("the database gate of this node does not answer".to_owned()));
        }
        let users: Vec<&str> = nodes
            .iter()
            .filter_map(|node| context.replication.get(node))
            .map(|login| login.user.as_str())
            .collect();
        for _ in 0..50 {
            let dumps = self.sql.ask("a look at its replicas", DUMPS).await?;
            let theirs = dumps.iter().filter(|row| users.contains(&text(row, "user").as_str()));
            let ids: Vec<u64> = theirs.filter_map(|row| text(row, "id").parse().ok()).collect();
            if ids.is_empty() {
                return Ok(());
            }
            for id in ids {
                if let Err(error) = self.sql.run_made("ending a replica's thread", format!("KILL {id}")).await
                {
                    tracing::debug!(%error, "it has ended by itself");
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::Other("a replica that is to be kept away still has a thread".to_owned()))
    }

    /// Makes the accounts that the group needs, where they are missing; again when somebody came.
    pub(super) async fn provide_accounts(&mut self, context: &Arc<Context>) {
        let Some(instance) = self.known.filter(|_| self.memory.leading.is_some()) else { return };
        let same =
            |held: &&mut super::Accounts| held.instance == instance && Arc::ptr_eq(&held.context, context);
        if let Some(held) = self.accounts.as_mut().filter(same) {
            if !held.made && held.task.is_finished() {
                held.made = (&mut held.task).await.unwrap_or(false);
                if !held.made {
                    self.accounts = None;
                }
            }
            return;
        }
        // Not here: a statement that waits for an acknowledgement would hold everything up.
        let (socket, wanted) = (self.folder.socket(), Arc::clone(context));
        let task = tokio::spawn(async move {
            let done = accounts(Sql::new(socket), &wanted).await;
            if let Err(error) = &done {
                tracing::warn!(%error, "accounts of the database group are not made; trying again");
            }
            done.is_ok()
        });
        self.accounts = Some(super::Accounts { instance, context: Arc::clone(context), task, made: false });
    }
}

const ACKS_ON: &str = "SET GLOBAL rpl_semi_sync_slave_enabled=ON";
const ACKS_OFF: &str = "SET GLOBAL rpl_semi_sync_slave_enabled=OFF";
const WAITS_ON: &str = "SET GLOBAL rpl_semi_sync_master_enabled=ON";
const WAITS_OFF: &str = "SET GLOBAL rpl_semi_sync_master_enabled=OFF";
/// A server that led has its position in the binary log alone; one that was copied or followed has it in both.
const FROM_BINLOG: &str = "SET GLOBAL gtid_slave_pos=@@gtid_binlog_pos";

async fn accounts(mut sql: Sql, context: &Context) -> Result<(), Error> {
    let rows = sql.ask("a look at its accounts", ACCOUNTS).await?;
    let there: BTreeSet<String> = rows.iter().map(|row| text(row, "user")).collect();
    for login in context.replication.values().filter(|login| !there.contains(&login.user)) {
        sql.run_made("an account", replication_account(login)?).await?;
    }
    // Of nodes that were removed.
    let known = |user: &str| context.replication.values().any(|login| login.user == user);
    for user in there.iter().filter(|user| user.ends_with("-replica") && !known(user)) {
        sql.run_made("dropping an account", format!("DROP USER IF EXISTS {}@'localhost'", quoted(user)?))
            .await?;
    }
    if !context.admin.user.is_empty() && !there.contains(&context.admin.user) {
        sql.run_made("the administration account", admin_account(&context.admin)?).await?;
    }
    Ok(())
}
