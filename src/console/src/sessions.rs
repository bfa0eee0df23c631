//! Signed-in sessions. A token is 32 random bytes in a cookie; the database knows its SHA-256, so every node can check it.

use crate::app::App;
use crate::auth::{Origin, origin};
use crate::refusal::Refused;
use aws_lc_rs::{constant_time, digest, hmac, rand};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::time::{Duration, Instant};

/// A session ends after so long.
pub(crate) const LIFETIME_S: i64 = 12 * 3600;
/// A session seen in the database this recently is not asked for again. Signing out on another node takes as long.
const FRESH: Duration = Duration::from_secs(10);
/// While the database does not answer, a session seen before goes on for so long: the cluster page is needed then.
const WITHOUT_DATABASE: Duration = Duration::from_secs(3600);
/// Sessions remembered.
const REMEMBERED: usize = 1_000;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) token: Token,
    /// A machine made the password: nothing but a change of it is open.
    pub(crate) must_change: bool,
}

/// What the browser holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub(crate) fn random() -> Result<Token, Refused> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes)
            .map_err(|_| Refused::internal("this machine gives no random numbers; restart it"))?;
        Ok(Token(bytes))
    }

    pub(crate) fn text(&self) -> String {
        hex(&self.0)
    }

    pub(crate) fn from_text(text: &str) -> Option<Token> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Token(bytes))
    }

    /// As the database knows it.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &self.0).as_ref());
        hash
    }

    /// What a form has to bring: only a page of this session knows it.
    pub(crate) fn csrf(&self) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hex(hmac::sign(&key, b"elpis form").as_ref())
    }

    pub(crate) fn is_csrf(&self, given: &str) -> bool {
        same(self.csrf().as_bytes(), given.as_bytes())
    }
}

/// Equal, in a time that says nothing of where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

struct Known {
    user: String,
    expires: i64,
    must_change: bool,
    seen: Instant,
}

/// Sessions that this process has seen in the database.
#[derive(Default)]
pub(crate) struct Sessions {
    known: Mutex<HashMap<[u8; 32], Known>>,
}

impl Sessions {
    fn known(&self, hash: &[u8; 32], now: i64, age: Duration) -> Option<(String, bool)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let one = known.get(hash)?;
        (one.expires > now && one.seen.elapsed() < age).then(|| (one.user.clone(), one.must_change))
    }

    pub(crate) fn remember(&self, hash: [u8; 32], user: &str, expires: i64, must_change: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, one| one.seen.elapsed() < FRESH);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, Known { user: user.to_owned(), expires, must_change, seen: Instant::now() });
    }

    /// Of this user, but the one with this hash.
    pub(crate) fn forget_all_but(&self, user: &str, keep: Option<&[u8; 32]>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|hash, one| one.user != user || Some(hash) == keep);
    }

    pub(crate) fn forget(&self, hash: &[u8; 32]) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }
}

/// Whose session this is by the database, now.
pub(crate) async fn confirmed(app: &App, token: Token) -> Result<Option<Person>, Refused> {
    let found = app.db.store()?.session(&token.hash(), app.now()).await?;
    Ok(found.map(|open| {
        let must_change = origin(open.password.expose()) == Origin::Made;
        Person { name: open.user, token, must_change }
    }))
}

/// Whose session this is, if it goes on.
pub(crate) async fn find(app: &App, token: Token) -> Result<Option<Person>, Refused> {
    let (hash, now) = (token.hash(), app.now());
    // Who has to change a password may have done so on another node.
    if let Some((name, false)) = app.sessions.known(&hash, now, FRESH) {
        return Ok(Some(Person { name, token, must_change: false }));
    }
    let asked = match app.db.store() {
        Ok(store) => store.session(&hash, now).await.map_err(Refused::from),
        Err(refused) => Err(refused),
    };
    match asked {
        Ok(Some(open)) => {
            let must_change = origin(open.password.expose()) == Origin::Made;
            app.sessions.remember(hash, &open.user, open.expires, must_change);
            Ok(Some(Person { name: open.user, token, must_change }))
        }
        Ok(None) => {
            app.sessions.forget(&hash);
            Ok(None)
        }
        Err(refused) => match app.sessions.known(&hash, now, WITHOUT_DATABASE) {
            Some((name, must_change)) => Ok(Some(Person { name, token, must_change })),
            None => Err(refused),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_its_form_token_is_its_own() {
        let (a, b) = (Token::random().unwrap(), Token::random().unwrap());
        assert_eq!(Token::from_text(&a.text()), Some(a.clone()));
        assert!(a.is_csrf(&a.csrf()) && !a.is_csrf(&b.csrf()) && !a.is_csrf(""));
        for bad in ["", "zz", &"é".repeat(32), &"x".repeat(64)] {
            assert_eq!(Token::from_text(bad), None);
        }
    }
}
