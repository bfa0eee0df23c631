//! The database of the faults, with an administrator's hands: its commits can be made to hang.

use super::World;
use std::collections::BTreeSet;
use std::process::Command;

/// What a connection is in while its COMMIT waits: the first of them in the binary log, the others behind it.
const HANGS: &str = "(STATE LIKE 'Waiting for semi-sync ACK%' OR STATE='Commit')";

impl World {
    fn sql(&self, text: &str) -> String {
        let socket = self.dir.path().join("dev/mariadb/s");
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--user=root", "--skip-column-names", "--batch", "-e", text]);
        let done = client.arg(format!("--socket={}", socket.display())).output().unwrap();
        assert!(done.status.success(), "{text}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// Every COMMIT waits from now on, for a replica that does not exist.
    pub(crate) fn hold_commits(&self) {
        self.sql(
            "SET GLOBAL rpl_semi_sync_master_timeout=18446744073709551615, GLOBAL rpl_semi_sync_master_wait_no_slave=1, \
             GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC, GLOBAL rpl_semi_sync_master_enabled=1",
        );
    }

    /// What waits is made good.
    pub(crate) fn let_commits_go(&self) {
        self.sql("SET GLOBAL rpl_semi_sync_master_enabled=0");
    }

    /// Ids of the nodes whose network servers have a COMMIT that waits.
    pub(crate) fn in_commit(&self) -> BTreeSet<u64> {
        let users = format!(
            "SELECT USER FROM information_schema.PROCESSLIST WHERE USER LIKE '%-network' AND INFO='COMMIT' AND {HANGS}"
        );
        self.sql(&users).lines().map(|user| user.split('-').nth(2).unwrap().parse().unwrap()).collect()
    }
}
