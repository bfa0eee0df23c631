//! The server's process: in a group of its own, so that it outlives the node agent, which finds it again.

use crate::folder::{Folder, as_user, program};
use crate::{Config, Error};
use elpis_cluster::agent::process::Process;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::time::timeout;

/// A process that was killed is gone within this, unless the disk holds it.
const GONE: Duration = Duration::from_secs(10);

/// The process that runs, if one does.
#[derive(Debug)]
pub(crate) struct Server {
    folder: Folder,
    process: Option<Process>,
    /// While it is our child.
    child: Option<tokio::process::Child>,
}

impl Server {
    /// Finds what an earlier node agent left running.
    pub(crate) fn find(folder: Folder) -> Server {
        let process = adopt(&folder);
        if let Some(process) = &process {
            tracing::info!(pid = process.pid(), "MariaDB runs already");
        }
        Server { folder, process, child: None }
    }

    /// Start time of the process, which tells it from every other; `None` = it does not run.
    pub(crate) fn instance(&self) -> Option<u64> {
        self.process.as_ref().filter(|process| process.runs()).map(Process::started)
    }

    /// Starts it; `master` = recovery keeps what nobody acknowledged.
    pub(crate) fn start(&mut self, config: &Config, master: bool, server_id: u32) -> Result<(), Error> {
        if let Some(found) = adopt(&self.folder) {
            self.process = Some(found);
            return Ok(());
        }
        let settings = self.folder.write_settings(config)?;
        let log = self.folder.open_log()?;
        let failed = |e| Error::File("cannot start mariadbd".to_owned(), e);
        let mut command = std::process::Command::new(program("mariadbd")?);
        command
            .arg(format!("--defaults-file={}", settings.display()))
            .arg(format!("--init-rpl-role={}", if master { "MASTER" } else { "SLAVE" }))
            .arg(format!("--server-id={server_id}"))
            .args(as_user())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .process_group(0);
        let child = tokio::process::Command::from(command).spawn().map_err(failed)?;
        let pid = child.id().unwrap_or(0);
        let path = self.folder.pid_file();
        (self.process, self.child) = (Process::find(pid), Some(child));
        // MariaDB writes it too, a moment later.
        fs::write(&path, pid.to_string())
            .map_err(|e| Error::File(format!("cannot write {}", path.display()), e))
    }

    /// SIGKILL: an orderly end would commit what nobody acknowledged.
    pub(crate) async fn kill(&mut self) -> Result<(), Error> {
        if let Some(process) = &self.process {
            process.kill();
            let gone = timeout(GONE, self.ended()).await;
            return gone.map_err(|_| Error::Silent(GONE.as_millis(), "its end after SIGKILL"));
        }
        Ok(())
    }

    /// Waits for the end of the process that runs; for ever when none does.
    pub(crate) async fn ended(&mut self) {
        let Some(process) = &self.process else { return std::future::pending().await };
        if let Some(child) = &mut self.child {
            match child.wait().await {
                Ok(status) => tracing::info!(%status, "MariaDB ended"),
                Err(error) => tracing::warn!(%error, "MariaDB ended, nobody knows how"),
            }
        }
        process.ended().await;
        (self.child, self.process) = (None, None);
    }
}

/// The process that the pid file names, if it is a server of this folder.
fn adopt(folder: &Folder) -> Option<Process> {
    let pid = fs::read_to_string(folder.pid_file()).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = folder.path("my.cnf").display().to_string();
    String::from_utf8_lossy(&command).contains(&ours).then(|| Process::find(pid)).flatten()
}
