//! People who sign in to the console, their sessions, and small questions that only the console asks.

use crate::batch::{Stop, fenced};
use crate::pool::run;
use crate::statements::statements;
use crate::{CommitError, Secret, Store, StoreError, Writer};
use elpis_monitor::ModuleId;
use sqlx::mysql::MySqlConnection;

statements! {
    USER = "SELECT id_user, fullname, password, is_admin FROM tuser WHERE id_user=? AND disabled=0";
    HAS_USERS = "SELECT EXISTS (SELECT 1 FROM tuser)";
    FIRST_USER = "INSERT INTO tuser (id_user, fullname, password, is_admin, registered) \
        SELECT ?, ?, ?, 1, ? FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM tuser)";
    SIGNED_IN = "UPDATE tuser SET last_connect=GREATEST(last_connect, ?) WHERE id_user=?";
    OPEN = "INSERT INTO tsession (token, id_user, created, expires, address) \
        SELECT ?, id_user, ?, ?, ? FROM tuser WHERE id_user=? AND password=? AND disabled=0 \
        ON DUPLICATE KEY UPDATE expires=VALUES(expires)";
    OLD = "DELETE FROM tsession WHERE expires<? ORDER BY expires LIMIT 500";
    CLOSE = "DELETE FROM tsession WHERE token=?";
    CLOSE_OTHERS = "DELETE FROM tsession WHERE id_user=? AND token<>?";
    PASSWORD = "UPDATE tuser SET password=? WHERE id_user=? AND disabled=0";
    SESSION = "SELECT s.id_user, s.expires, u.password FROM tsession s JOIN tuser u ON u.id_user=s.id_user \
        WHERE s.token=? AND s.expires>? AND u.disabled=0";
    FIRST_SCHEDULED = "SELECT MIN(utimestamp) FROM trun_schedule";
    STATE_EVENTS = "SELECT utimestamp, event_type FROM tevent WHERE id_agent_module=? AND utimestamp<? \
        AND event_type LIKE 'going\\_%' ORDER BY id_event DESC LIMIT ?";
}

/// A person who may sign in.
#[derive(Clone, Debug)]
pub struct User {
    /// Name to sign in with.
    pub name: String,
    /// Name shown.
    pub full_name: String,
    /// argon2id in PHC form.
    pub password: Secret,
    /// May change everything.
    pub is_admin: bool,
}

/// A session of a person, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// SHA-256 of the token.
    pub token: [u8; 32],
    /// Whose.
    pub user: String,
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds.
    pub expires: i64,
    /// Where it was opened from.
    pub address: String,
}

/// A session that goes on.
#[derive(Clone, Debug)]
pub struct OpenSession {
    /// Whose.
    pub user: String,
    /// Unix seconds.
    pub expires: i64,
    /// What stands for its user, argon2id in PHC form.
    pub password: Secret,
}

impl Store {
    /// An enabled user by name.
    pub async fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        let mut conn = self.acquire().await?;
        let row: Option<(String, String, String, u8)> = run!(conn, "reading a user", |c| {
            Ok(sqlx::query_as(USER).bind(name).fetch_optional(&mut *c).await?)
        })?;
        Ok(row.map(|(name, full_name, password, admin)| User {
            name,
            full_name,
            password: Secret::new(password),
            is_admin: admin != 0,
        }))
    }

    /// Somebody can sign in.
    pub async fn has_users(&self) -> Result<bool, StoreError> {
        let mut conn = self.acquire().await?;
        let there: i64 = run!(conn, "looking for users", |c| Ok(sqlx::query_scalar(HAS_USERS)
            .fetch_one(&mut *c)
            .await?))?;
        Ok(there != 0)
    }

    /// Makes the first user, an administrator; does nothing when there is one already.
    pub async fn create_first_user(&self, w: &Writer, user: &User, now: i64) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "making the first user", |c| first_user(c, user, now).await)?)
    }

    /// Opens a session and removes some that are over. `checked`: the stored password that was right; when another one
    /// stands by now there is no such user.
    pub async fn open_session(
        &self,
        w: &Writer,
        session: &Session,
        checked: &Secret,
    ) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "opening a session", |c| open_session(c, session, checked).await)?)
    }

    /// Ends a session; one that is not there is ended already.
    pub async fn close_session(&self, w: &Writer, token: &[u8; 32]) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "ending a session", |c| close_session(c, token).await)?)
    }

    /// Gives an enabled user another password (argon2id in PHC form) and ends all sessions but the one with this token.
    pub async fn set_password(
        &self,
        w: &Writer,
        user: &str,
        password: &Secret,
        keep: Option<&[u8; 32]>,
    ) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "changing a password", |c| set_password(c, user, password, keep).await)?)
    }

    /// The session with this token, if it goes on at `now` and its user is enabled.
    pub async fn session(&self, token: &[u8; 32], now: i64) -> Result<Option<OpenSession>, StoreError> {
        let mut conn = self.acquire().await?;
        let row: Option<(String, i64, String)> = run!(conn, "reading a session", |c| {
            Ok(sqlx::query_as(SESSION).bind(token.as_slice()).bind(now).fetch_optional(&mut *c).await?)
        })?;
        Ok(row.map(|(user, expires, password)| OpenSession {
            user,
            expires,
            password: Secret::new(password),
        }))
    }

    /// When the first check was set up, Unix seconds; `None` = there never was one.
    pub async fn first_scheduled(&self) -> Result<Option<i64>, StoreError> {
        let mut conn = self.acquire().await?;
        run!(conn, "reading the schedule", |c| Ok(sqlx::query_scalar(FIRST_SCHEDULED)
            .fetch_one(&mut *c)
            .await?))
    }

    /// The latest state events of a module before `to`, ascending: time, type.
    pub async fn state_events(
        &self,
        module: ModuleId,
        to: i64,
        most: u32,
    ) -> Result<Vec<(i64, String)>, StoreError> {
        let mut conn = self.acquire().await?;
        let mut rows: Vec<(i64, String)> = run!(conn, "reading state events", |c| {
            Ok(sqlx::query_as(STATE_EVENTS).bind(module.0).bind(to).bind(most).fetch_all(&mut *c).await?)
        })?;
        rows.reverse();
        Ok(rows)
    }
}

async fn first_user(c: &mut MySqlConnection, user: &User, now: i64) -> Result<(), Stop> {
    let query = sqlx::query(FIRST_USER).bind(&user.name).bind(&user.full_name);
    match query.bind(user.password.expose()).bind(now).execute(&mut *c).await {
        // Another node was first, with the same name.
        Err(error) if crate::error::number(&error) == Some(crate::error::DUPLICATE) => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

async fn open_session(c: &mut MySqlConnection, session: &Session, checked: &Secret) -> Result<(), Stop> {
    sqlx::query(OLD).bind(session.created).execute(&mut *c).await?;
    let opened = sqlx::query(OPEN)
        .bind(session.token.as_slice())
        .bind(session.created)
        .bind(session.expires)
        .bind(crate::bulk::cut(&session.address, 64).to_owned())
        .bind(&session.user)
        .bind(checked.expose())
        .execute(&mut *c)
        .await?;
    if opened.rows_affected() == 0 {
        return Err(Stop::Error(StoreError::NotFound(format!("user {} with this password", session.user))));
    }
    sqlx::query(SIGNED_IN).bind(session.created).bind(&session.user).execute(&mut *c).await?;
    Ok(())
}

async fn close_session(c: &mut MySqlConnection, token: &[u8; 32]) -> Result<(), Stop> {
    sqlx::query(CLOSE).bind(token.as_slice()).execute(&mut *c).await?;
    Ok(())
}

async fn set_password(
    c: &mut MySqlConnection,
    user: &str,
    password: &Secret,
    keep: Option<&[u8; 32]>,
) -> Result<(), Stop> {
    let done = sqlx::query(PASSWORD).bind(password.expose()).bind(user).execute(&mut *c).await?;
    if done.rows_affected() == 0 {
        return Err(Stop::Error(StoreError::NotFound(format!("user {user}"))));
    }
    // No token hashes to zeros.
    let keep = keep.unwrap_or(&[0; 32]).as_slice();
    sqlx::query(CLOSE_OTHERS).bind(user).bind(keep).execute(&mut *c).await?;
    Ok(())
}
