//! Passwords are changed, lost ones given anew, and the first one's file is removed when it opens nothing any more.

use crate::api::{Answer, read};
use crate::app::App;
use crate::auth::{ADMIN, Confirm, Origin, checked, hashed, limited, redirect};
use crate::pages::{self, Oops};
use crate::refusal::Refused;
use crate::sessions::Person;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use elpis_watch::durable;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Characters of a new one; length is what counts, so nothing else is asked for.
const SHORTEST: usize = 12;
const LONGEST: usize = 128;
/// How often the first one's file is compared with what stands.
const LOOK: Duration = Duration::from_secs(5);

/// Why an API does nothing for somebody, and what to do.
pub(crate) const MUST_CHANGE: &str = "a machine made this password, and it must be changed before anything else is done: \
    POST /api/v1/password with {\"current\": \"…\", \"new\": \"…\"}, or the console's page Account";

/// PURE: the paths of a change, and of going away.
pub(crate) fn opens_before_a_change(path: &str) -> bool {
    matches!(path, "/account" | "/sign-out" | "/api/v1/session" | "/api/v1/password")
}

/// PURE: why a password is not taken.
fn flaw(new: &str, user: &str) -> Option<String> {
    let length = new.chars().count();
    match () {
        () if length < SHORTEST => {
            Some(format!("The new password has {length} characters; at least {SHORTEST} are needed."))
        }
        () if length > LONGEST => Some(format!("The new password has more than {LONGEST} characters.")),
        () if new.trim() != new => Some("The new password begins or ends with a blank.".to_owned()),
        () if new.to_lowercase().contains(&user.to_lowercase()) => {
            Some("The new password contains the user's name.".to_owned())
        }
        () => None,
    }
}

/// A person's own change. A session that was stolen must not serve to guess.
async fn change(app: &App, person: &Person, current: String, new: String) -> Result<(), Refused> {
    let whence = format!("change {}", person.name);
    let changes = change_checked(app, person, &current, new);
    limited(app, &whence, &person.name, StatusCode::FORBIDDEN, changes).await
}

async fn change_checked(app: &App, person: &Person, current: &str, new: String) -> Result<(), Refused> {
    if let Some(why) = flaw(&new, &person.name) {
        return Err(Refused::bad(why));
    }
    if new == current {
        return Err(Refused::bad("The new password is the one that you have."));
    }
    let known = app.db.store()?.user(&person.name).await?;
    let known = known.ok_or_else(|| Refused::missing("There is no such user any more."))?;
    if !checked(app, current, known.password.expose()).await? {
        return Err(Refused::new(StatusCode::FORBIDDEN, "The current password is wrong."));
    }
    set(app, &person.name, new, Origin::Chosen, Some(person.token.hash())).await?;
    tracing::warn!(user = %person.name, "changed the own password; all other sessions have ended");
    Ok(())
}

async fn set(
    app: &App,
    user: &str,
    new: String,
    origin: Origin,
    keep: Option<[u8; 32]>,
) -> Result<(), Refused> {
    let hashed = hashed(app, new, origin).await?;
    let (hashed, keep) = (&hashed, keep.as_ref());
    app.db
        .write(|store, writer| async move { store.set_password(&writer, user, hashed, keep).await })
        .await?;
    app.sessions.forget_all_but(user, keep);
    Ok(())
}

#[derive(Deserialize)]
pub(crate) struct Change {
    current: String,
    new: String,
    again: String,
    #[serde(flatten)]
    confirm: Confirm,
}

#[derive(Deserialize)]
pub(crate) struct Ask {
    changed: Option<String>,
}

pub(crate) async fn page(view: pages::View, Query(ask): Query<Ask>) -> Response {
    view.account("", ask.changed.is_some())
}

pub(crate) async fn submit(
    view: pages::View,
    State(app): State<Arc<App>>,
    Form(form): Form<Change>,
) -> Result<Response, Oops> {
    form.confirm.check(&view.person)?;
    let done = match form.new == form.again {
        true => change(&app, &view.person, form.current, form.new).await,
        false => Err(Refused::bad("The two new passwords differ.")),
    };
    Ok(match done {
        Ok(()) => redirect("/account?changed=1"),
        Err(refused) => (refused.status, view.account(&refused.text, false)).into_response(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    current: String,
    new: String,
}

/// `POST /api/v1/password`: the own one, for programs that have signed in.
pub(crate) async fn own(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    body: Bytes,
) -> Answer {
    let own: Own = read(&body)?;
    change(&app, &person, own.current, own.new).await?;
    Ok(Json(json!({ "changed": person.name })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    password: Option<String>,
}

/// `POST /api/v1/users/NAME/password`, on the local socket only: a lost one. Without one in the body it is made.
pub(crate) async fn reset(State(app): State<Arc<App>>, Path(name): Path<String>, body: Bytes) -> Answer {
    let reset: Reset = read(&body)?;
    let mut said = json!({ "user": name });
    let (password, origin) = match reset.password {
        Some(given) => match flaw(&given, &name) {
            Some(why) => return Err(Refused::bad(why)),
            None => (given, Origin::Chosen),
        },
        None => {
            let made = crate::secrets::random().map_err(|error| Refused::internal(error.to_string()))?;
            said["password"] = made.as_str().into();
            (made, Origin::Made)
        }
    };
    set(&app, &name, password, origin, None).await?;
    tracing::warn!(user = %name, "password given anew on this machine; all sessions have ended");
    Ok(Json(said).into_response())
}

/// Removes the file of the first password once another one stands, on whatever node it was changed.
pub(crate) async fn retire_first(app: &App, file: &std::path::Path) {
    let mut compared = None::<String>;
    loop {
        let Ok(first) = tokio::fs::read_to_string(file).await else { return };
        match standing(app, first.trim(), &mut compared).await {
            Ok(true) => {}
            Ok(false) => match removed(file.to_owned()).await {
                Ok(()) => {
                    tracing::info!(file = %file.display(), "the first password stands no more; its file is removed");
                }
                Err(error) => {
                    tracing::warn!(%error, file = %file.display(), "the file of a password that opens nothing stays");
                    return;
                }
            },
            Err(refused) => tracing::debug!(error = %refused.text, "the first password is not compared"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// For good: a screen that shows it again after a power cut would send people to a door that stays shut.
async fn removed(file: std::path::PathBuf) -> std::io::Result<()> {
    tokio::task::spawn_blocking(move || durable::remove(&file)).await?
}

/// Whether it is the administrator's. Compared only when what is stored has changed: it takes a processor for a while.
async fn standing(app: &App, first: &str, compared: &mut Option<String>) -> Result<bool, Refused> {
    let Some(admin) = app.db.store()?.user(ADMIN).await? else { return Ok(true) };
    let stored = admin.password.expose();
    if compared.as_deref() == Some(stored) {
        return Ok(true);
    }
    let right = checked(app, first, stored).await?;
    *compared = Some(stored.to_owned());
    Ok(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_password_is_told_why() {
        for (new, why) in [
            ("short", "5 characters"),
            ("pass word 12", ""),
            (" correct horse", "blank"),
            ("the Admin's own", "user's name"),
            (&"x".repeat(LONGEST + 1), "more than"),
            (&"ü".repeat(SHORTEST), ""),
        ] {
            let flaw = flaw(new, "admin").unwrap_or_default();
            assert_eq!((flaw.is_empty(), flaw.contains(why)), (why.is_empty(), true), "{new}: {flaw}");
        }
    }
}
