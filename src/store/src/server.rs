//! Registered servers (`tserver`): for people and programs that look at the table. Who works on what is not read here.

use crate::batch::fenced;
use crate::pool::run;
use crate::statements::statements;
use crate::{CommitError, ServerKind, Store, StoreError, Writer};

statements! {
    ALIVE = "INSERT INTO tserver (name, server_type, ip_address, status, laststart, keepalive, version, threads, \
        queued_modules) VALUES (?,?,?,?,?,?,?,?,?) ON DUPLICATE KEY UPDATE ip_address=VALUES(ip_address), \
        status=VALUES(status), laststart=VALUES(laststart), keepalive=VALUES(keepalive), version=VALUES(version), \
        threads=VALUES(threads), queued_modules=VALUES(queued_modules)";
    SERVERS = "SELECT name, server_type, ip_address, status, laststart, keepalive, version, threads, queued_modules \
        FROM tserver WHERE server_type IN (0, 1) ORDER BY name, server_type";
}

/// A server's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// Node.
    pub name: String,
    /// Kind; stored as 0 data, 1 network.
    pub kind: ServerKind,
    /// Address shown.
    pub address: String,
    /// 1 up, 0 stopped in order.
    pub status: i8,
    /// Start of the process, Unix seconds.
    pub started: i64,
    /// Server clock of this row.
    pub keepalive: i64,
    /// Version of the program.
    pub version: String,
    /// Probes or workers at once.
    pub threads: u32,
    /// Work waiting.
    pub queued: u32,
}

impl Store {
    /// Says that a server is there (each keep-alive), or that it stopped.
    pub async fn server_alive(&self, w: &Writer, s: &ServerRow) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "registering a server", |c| {
            let query =
                sqlx::query(ALIVE).bind(&s.name).bind(s.kind.number() - 1).bind(&s.address).bind(s.status);
            let query =
                query.bind(s.started).bind(s.keepalive).bind(&s.version).bind(s.threads).bind(s.queued);
            query.execute(&mut *c).await?;
            Ok(())
        })?)
    }

    /// All registered servers of the kinds we have.
    pub async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        type Columns = (String, u8, String, i8, i64, i64, String, u32, u32);
        let mut conn = self.acquire().await?;
        let rows: Vec<Columns> =
            run!(conn, "reading servers", |c| Ok(sqlx::query_as(SERVERS).fetch_all(&mut *c).await?))?;
        let row = |(name, kind, address, status, started, keepalive, version, threads, queued): Columns| {
            ServerRow {
                name,
                kind: if kind == 0 { ServerKind::Data } else { ServerKind::Network },
                address,
                status,
                started,
                keepalive,
                version,
                threads,
                queued,
            }
        };
        Ok(rows.into_iter().map(row).collect())
    }
}
