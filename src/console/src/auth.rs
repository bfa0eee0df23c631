//! Signing in and out, and the guard before everything on the TLS port.

use crate::app::App;
use crate::pages::{self, Oops};
use crate::password;
use crate::refusal::Refused;
use crate::serve::Peer;
use crate::sessions::{self, LIFETIME_S, Person, Token, same};
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, AssociatedData, Params, ParamsBuilder, PasswordHasher, PasswordVerifier};
use axum::extract::{Form, Query, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use elpis_store::{Secret, Session, User};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// `__Host-`: secure, for this host alone, for all paths. Ports do not matter, so one cookie serves all nodes behind a name.
const SESSION: &str = "__Host-elpis";
/// Longest password looked at.
const LONGEST: usize = 1024;
pub(crate) const ADMIN: &str = "admin";

/// Checked when a name is unknown, so that the answer takes as long.
static NOBODY: LazyLock<String> = LazyLock::new(|| hash("nobody", Origin::Chosen).unwrap_or_default());

/// Where a password comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A person chose it.
    Chosen,
    /// A machine made it, others may have read it: it must be changed.
    Made,
}

/// Part of the hash of a password that was made, where Argon2 has room for such a word: no column of its own, so that an
/// earlier version reads the table, too.
const MADE: &[u8] = b"made";

fn hash(password: &str, origin: Origin) -> Option<String> {
    let mut params = ParamsBuilder::new();
    if origin == Origin::Made {
        params.data(AssociatedData::new(MADE).ok()?);
    }
    let argon2 = Argon2::from(params.build().ok()?);
    Some(argon2.hash_password(password.as_bytes()).ok()?.to_string())
}

/// Where the password of this hash comes from.
pub(crate) fn origin(hash: &str) -> Origin {
    let params = PasswordHash::new(hash).ok().and_then(|hash| Params::try_from(&hash).ok());
    if params.is_some_and(|params| params.data() == MADE) { Origin::Made } else { Origin::Chosen }
}

fn is_right(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// A cookie's value.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(COOKIE).into_iter().filter_map(|header| header.to_str().ok());
    all.flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(given, _)| *given == name)
        .map(|(_, value)| value)
}

/// What every answer carries: nothing is loaded from elsewhere, nothing inline, no framing.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Security headers, and only the signed-in behind the open paths.
pub(crate) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let stays = path.starts_with("/static/");
    let mut response = match admit(&app, &mut request, &path).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", CONTENT_SECURITY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, axum::http::HeaderValue::from_static(value));
    }
    if !stays {
        headers.insert("cache-control", axum::http::HeaderValue::from_static("no-store"));
    }
    response
}

async fn admit(app: &App, request: &mut Request, path: &str) -> Result<(), Response> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let api = path.starts_with("/api/");
    let no = |refused: Refused| if api { refused.into_response() } else { Oops(refused).into_response() };
    if !safe && !is_same_origin(request.headers()) {
        return Err(no(Refused::new(StatusCode::FORBIDDEN, "this request came from another site")));
    }
    if path == "/metrics" {
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
        let token = given.strip_prefix("Bearer ").unwrap_or("");
        return match same(token.as_bytes(), app.metrics_token.as_bytes()) && !token.is_empty() {
            true => Ok(()),
            false => Err(Refused::new(
                StatusCode::UNAUTHORIZED,
                "send `Authorization: Bearer TOKEN`; the token is in metrics.token of this node's folder",
            )
            .into_response()),
        };
    }
    if path.starts_with("/static/") || matches!(path, "/sign-in" | "/healthz" | "/theme") {
        return Ok(());
    }
    let token = cookie(request.headers(), SESSION).and_then(Token::from_text);
    let found = match token {
        // Whoever changes something is looked up: an ended session may be remembered here.
        Some(token) if safe => sessions::find(app, token).await.map_err(no)?,
        Some(token) => sessions::confirmed(app, token).await.map_err(no)?,
        None => None,
    };
    let Some(person) = found else {
        let all = request.uri().path_and_query().map_or("/", |all| all.as_str());
        return Err(match api || !safe || path.starts_with("/live/") {
            true => Refused::new(StatusCode::UNAUTHORIZED, "sign in first: POST /sign-in").into_response(),
            false => redirect(&format!("/sign-in?next={}", pages::encoded(all))),
        });
    };
    let given = request.headers().get("x-csrf-token").and_then(|value| value.to_str().ok()).unwrap_or("");
    if api && !safe && !person.token.is_csrf(given) {
        let text = "send the header X-CSRF-Token with the text that GET /api/v1/session gives";
        return Err(Refused::new(StatusCode::FORBIDDEN, text).into_response());
    }
    if person.must_change && !password::opens_before_a_change(path) {
        return Err(match api || path.starts_with("/live/") {
            true => Refused::new(StatusCode::FORBIDDEN, password::MUST_CHANGE).into_response(),
            false => redirect("/account"),
        });
    }
    request.extensions_mut().insert(person);
    Ok(())
}

/// Browsers say where a request comes from; programs say nothing.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    match (text(ORIGIN.as_str()), text(HOST.as_str())) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, from)| from == host),
        (Some(_), None) => false,
    }
}

pub(crate) fn redirect(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, to.to_owned())]).into_response()
}

/// A path of ours, whatever was asked for.
pub(crate) fn inside(next: Option<&str>) -> &str {
    let plain = |next: &&str| {
        next.starts_with('/')
            && !next.starts_with("//")
            && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
    };
    next.filter(plain).unwrap_or("/")
}

#[derive(Deserialize)]
pub(crate) struct AfterSignIn {
    next: Option<String>,
}

pub(crate) async fn sign_in_page(headers: HeaderMap, Query(query): Query<AfterSignIn>) -> Response {
    pages::sign_in(&headers, inside(query.next.as_deref()), "", "")
}

#[derive(Deserialize)]
pub(crate) struct SignIn {
    name: String,
    password: String,
    next: Option<String>,
}

pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<SignIn>,
) -> Response {
    let next = inside(form.next.as_deref());
    let address = peer.0.map_or_else(|| "local".to_owned(), |ip| ip.to_string());
    let signs_in = look_up(&app, &form.name, &form.password, &address);
    match limited(&app, &address, &form.name, StatusCode::UNAUTHORIZED, signs_in).await {
        Ok(token) => {
            tracing::info!(user = %form.name, %address, "signed in");
            let value = format!(
                "{SESSION}={}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={LIFETIME_S}",
                token.text()
            );
            (StatusCode::SEE_OTHER, [(LOCATION, next.to_owned()), (SET_COOKIE, value)]).into_response()
        }
        Err(refused) => {
            app.metrics.sign_in_failed();
            let name: String = form.name.chars().take(150).collect();
            tracing::warn!(user = ?name, %address, reason = %refused.text, "not signed in");
            (refused.status, pages::sign_in(&headers, next, &name, &refused.text)).into_response()
        }
    }
}

/// Work that is refused with the status `wrong` when a password is wrong: too many such failures, by whence and by name,
/// and it is not begun.
pub(crate) async fn limited<T>(
    app: &App,
    whence: &str,
    name: &str,
    wrong: StatusCode,
    work: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    if let Err(seconds) = app.limiter.begin(whence, name, app.now()) {
        let text = format!("Too many failed tries. Wait {} min, then try again.", seconds / 60 + 1);
        return Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, text));
    }
    let done = work.await;
    match &done {
        Ok(_) => app.limiter.succeeded(whence, name),
        Err(refused) if refused.status == wrong => {}
        Err(_) => app.limiter.said_nothing(whence, name),
    }
    done
}

/// Whether a password is that of the hash; takes its turn.
pub(crate) async fn checked(app: &App, password: &str, known: &str) -> Result<bool, Refused> {
    let _permit = app.hashing.acquire().await.map_err(|_| Refused::unavailable("the console is stopping"))?;
    let (password, known) = (password.to_owned(), known.to_owned());
    let right =
        tokio::task::spawn_blocking(move || password.len() <= LONGEST && is_right(&password, &known)).await;
    right.map_err(|_| Refused::internal("the password cannot be checked"))
}

/// A password as it is stored; takes its turn.
pub(crate) async fn hashed(app: &App, password: String, origin: Origin) -> Result<Secret, Refused> {
    let _permit = app.hashing.acquire().await.map_err(|_| Refused::unavailable("the console is stopping"))?;
    let done = tokio::task::spawn_blocking(move || hash(&password, origin)).await.ok().flatten();
    done.map(Secret::new).ok_or_else(|| Refused::internal("the password cannot be hashed"))
}

async fn look_up(app: &App, name: &str, password: &str, address: &str) -> Result<Token, Refused> {
    let now = app.now();
    let user = app.db.store()?.user(name).await?;
    let known = user.as_ref().map_or(NOBODY.as_str(), |user| user.password.expose());
    let right = checked(app, password, known).await?;
    let Some(user) = user.filter(|_| right) else {
        return Err(Refused::new(StatusCode::UNAUTHORIZED, "Name or password is wrong."));
    };
    let token = Token::random()?;
    let session = Session {
        token: token.hash(),
        user: user.name.clone(),
        created: now,
        expires: now + LIFETIME_S,
        address: address.to_owned(),
    };
    let (opened, checked) = (&session, &user.password);
    let opens =
        app.db.write(|store, writer| async move { store.open_session(&writer, opened, checked).await });
    // Changed while it was checked.
    opens.await.map_err(|refused| match refused.status {
        StatusCode::NOT_FOUND => Refused::new(StatusCode::UNAUTHORIZED, "Name or password is wrong."),
        _ => refused,
    })?;
    let must_change = origin(user.password.expose()) == Origin::Made;
    app.sessions.remember(session.token, &user.name, session.expires, must_change);
    Ok(token)
}

/// A form that only brings the page's own token.
#[derive(Deserialize)]
pub(crate) struct Confirm {
    csrf: String,
}

impl Confirm {
    pub(crate) fn of(csrf: String) -> Confirm {
        Confirm { csrf }
    }

    pub(crate) fn check(&self, person: &Person) -> Result<(), Refused> {
        match person.token.is_csrf(&self.csrf) {
            true => Ok(()),
            false => Err(Refused::new(
                StatusCode::FORBIDDEN,
                "this form is too old; reload the page and try again",
            )),
        }
    }
}

pub(crate) async fn sign_out(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
    Form(form): Form<Confirm>,
) -> Result<Response, Oops> {
    form.check(&person)?;
    let hash = person.token.hash();
    app.db.write(|store, writer| async move { store.close_session(&writer, &hash).await }).await?;
    app.sessions.forget(&hash);
    let gone = format!("{SESSION}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    Ok((StatusCode::SEE_OTHER, [(LOCATION, "/sign-in".to_owned()), (SET_COOKIE, gone)]).into_response())
}

pub(crate) async fn session(Extension(person): Extension<Person>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "user": person.name, "csrf": person.token.csrf(), "must_change_password": person.must_change,
    }))
}

/// While nobody can sign in: makes the administrator with the password of this file, which is made where it is missing.
pub(crate) async fn first_user(app: Arc<App>, file: PathBuf, origin: Origin) {
    loop {
        match make_first_user(&app, &file, origin).await {
            Ok(()) => break,
            Err(error) => tracing::debug!(error = %error.text, "no first user yet"),
        }
        if app.stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(500))).await.is_none() {
            return;
        }
    }
    app.stop.clone().run_until_cancelled(password::retire_first(&app, &file)).await;
}

async fn make_first_user(app: &App, file: &std::path::Path, origin: Origin) -> Result<(), Refused> {
    let store = app.db.store()?;
    if store.has_users().await? {
        return Ok(());
    }
    if !app.db.can_write() {
        return Err(Refused::unavailable("no lease yet"));
    }
    let (password, made) = crate::secrets::read_or_make(file, crate::secrets::random)
        .map_err(|error| Refused::internal(format!("{}: {error}", file.display())))?;
    let user = User {
        name: ADMIN.to_owned(),
        full_name: "Administrator".to_owned(),
        password: hashed(app, password.clone(), origin).await?,
        is_admin: true,
    };
    let (user, now) = (&user, app.now());
    app.db.write(|store, writer| async move { store.create_first_user(&writer, user, now).await }).await?;
    // Another node may have been first, with another password: then this one opens nothing.
    let ours = match store.user(ADMIN).await? {
        Some(stands) => checked(app, &password, stands.password.expose()).await?,
        None => false,
    };
    if ours {
        tracing::info!(user = ADMIN, file = %file.display(), "the first user is made; the password is in this file");
    } else if made {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_checked_against_its_hash() {
        let stored = hash("s3cret", Origin::Chosen).unwrap();
        assert!(stored.starts_with("$argon2id$v=19$") && is_right("s3cret", &stored));
        assert!(!is_right("s3cret ", &stored) && !is_right("s3cret", "damaged"));
        assert_eq!((origin(&stored), origin("damaged")), (Origin::Chosen, Origin::Chosen));
        let made = hash("s3cret", Origin::Made).unwrap();
        assert!(is_right("s3cret", &made) && !is_right("s3cret ", &made), "{made}");
        assert_eq!(origin(&made), Origin::Made);
        // Who takes the word away has another hash, which nothing opens.
        assert!(!is_right("s3cret", &made.replace(",data=bWFkZQ", "")), "{made}");
    }

    #[test]
    fn the_way_after_sign_in_stays_inside() {
        for (asked, way) in [
            (Some("/agents?q=a%20b"), "/agents?q=a%20b"),
            (Some("//evil"), "/"),
            (Some("https://evil"), "/"),
            (Some("/\\evil"), "/"),
            (Some("/a\r\nb"), "/"),
            (None, "/"),
        ] {
            assert_eq!(inside(asked), way);
        }
    }

    #[test]
    fn other_sites_are_told_apart() {
        let headers = |list: &[(&'static str, &'static str)]| {
            list.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect::<HeaderMap>()
        };
        assert!(is_same_origin(&headers(&[])));
        assert!(is_same_origin(&headers(&[("origin", "https://a:1"), ("host", "a:1")])));
        assert!(!is_same_origin(&headers(&[("origin", "https://b:1"), ("host", "a:1")])));
        assert!(!is_same_origin(&headers(&[("origin", "null"), ("host", "a:1")])));
        assert!(!is_same_origin(&headers(&[("sec-fetch-site", "cross-site")])));
        let list = headers(&[("cookie", "a=1; __Host-elpis=xyz;b=2")]);
        assert_eq!((cookie(&list, SESSION), cookie(&list, "c")), (Some("xyz"), None));
    }
}
