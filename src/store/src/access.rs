//! Accounts of the database itself: one a node and role, made and dropped with the administration account.
//!
//! Every step is the same when it is done twice, so whoever is interrupted begins anew, and two that do it at the same
//! time harm nobody. Standing connections of an account go on while it is made again.

mod grants;
mod refused;
#[cfg(feature = "testdb")]
pub(crate) use grants::privileges;
pub use refused::AccessError;

use crate::Endpoint;
use crate::Secret;
use crate::error::number;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use refused::Step;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use std::time::Duration;

/// Longest wait for a connection, and for one statement.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest name of an account: what MySQL takes.
const NAME: usize = 32;

/// What an account is for; its privileges follow from the statements of that role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessRole {
    /// Data server, with the purge.
    Data,
    /// Network server.
    Network,
    /// Console.
    Console,
}

impl AccessRole {
    /// All of them.
    pub const ALL: [AccessRole; 3] = [AccessRole::Data, AccessRole::Network, AccessRole::Console];
}

/// An account to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name: letters, digits, `-` and `_`.
    pub user: String,
    /// Its role.
    pub role: AccessRole,
    /// Its password.
    pub password: Secret,
}

/// Makes these accounts, or sets password and privileges of those that stand, and drops the others. `admin` is the
/// administration account. The schema must be there.
pub async fn provide_access(admin: &Endpoint, make: &[Account], drop: &[String]) -> Result<(), AccessError> {
    let cannot = |error: crate::StoreError| AccessError::Endpoint(error.to_string());
    let (_, database) = admin.server_options().map_err(cannot)?;
    let options = admin.options().map_err(cannot)?;
    // Who comes by socket is `localhost`, others come from whatever address their node has.
    let host = if options.get_socket().is_some() { "localhost" } else { "%" };
    let connect =
        async { options.connect().await.map_err(|e| refused::connecting(&e, &admin.user, &database)) };
    let mut conn = within(connect).await?;
    let me: String = within(async {
        let asked = sqlx::query_scalar("SELECT CURRENT_USER()").fetch_one(&mut conn).await;
        asked.map_err(|e| AccessError::Failed(e.to_string()))
    })
    .await?;
    let mut work = Work { conn, me, host, database };
    for user in drop {
        let user = work.name(user)?;
        work.run(Step::Account, format!("DROP USER IF EXISTS {user}")).await?;
    }
    for account in make {
        work.provide(account).await?;
    }
    let _ = tokio::time::timeout(LIMIT, work.conn.close()).await;
    Ok(())
}

struct Work {
    conn: MySqlConnection,
    /// The administration account as the server names it.
    me: String,
    host: &'static str,
    database: String,
}

impl Work {
    /// As SQL writes an account; nothing in it needs quoting.
    fn name(&self, user: &str) -> Result<String, AccessError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if user.is_empty() || user.len() > NAME || !user.chars().all(plain) {
            return Err(AccessError::Endpoint(format!("{user:?} is no name for an account")));
        }
        Ok(format!("'{user}'@'{}'", self.host))
    }

    async fn provide(&mut self, account: &Account) -> Result<(), AccessError> {
        let user = self.name(&account.user)?;
        // The hash, not the password: statements are seen in process lists and kept in binary logs.
        let how = format!("IDENTIFIED WITH mysql_native_password AS '{}'", verifier(&account.password));
        self.run(Step::Account, format!("CREATE USER IF NOT EXISTS {user} {how}")).await?;
        self.run(Step::Account, format!("ALTER USER {user} {how}")).await?;
        for (table, privileges) in grants::of(account.role) {
            let text = format!("GRANT {privileges} ON `{}`.`{table}` TO {user}", self.database);
            self.run(Step::Grant, text).await?;
        }
        Ok(())
    }

    /// Text of names and hashes that were looked at.
    async fn run(&mut self, step: Step, text: String) -> Result<(), AccessError> {
        let (conn, me, database) = (&mut self.conn, &self.me, &self.database);
        within(async {
            let done = conn.execute(AssertSqlSafe(text)).await;
            done.map(|_| ()).map_err(|error| step.refused(&error, me, database))
        })
        .await
    }
}

async fn within<T>(work: impl Future<Output = Result<T, AccessError>>) -> Result<T, AccessError> {
    tokio::time::timeout(LIMIT, work).await.map_err(|_| AccessError::Silent(LIMIT.as_secs()))?
}

/// What the server keeps of a password: SHA-1 twice, as its native authentication has it. The passwords have 256 random
/// bits, so the age of the hash costs nothing.
fn verifier(password: &Secret) -> String {
    let once = digest(&SHA1_FOR_LEGACY_USE_ONLY, password.expose().as_bytes());
    let twice = digest(&SHA1_FOR_LEGACY_USE_ONLY, once.as_ref());
    let hex: String = twice.as_ref().iter().map(|b| format!("{b:02X}")).collect();
    format!("*{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_server_s() {
        assert_eq!(verifier(&Secret::new("mypass")), "*6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4");
    }
}
