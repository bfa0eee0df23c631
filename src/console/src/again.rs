//! Questions that fail because the database moves are asked again: a page opened in the second of a failover comes a
//! second later, not as an error. Changes are not: they have their own rule ([`Db::write`](crate::db::Db::write)).

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use std::time::Duration;
use tokio::time::Instant;

/// Nothing is asked again after this; the command line waits three seconds for an answer.
const LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Marks the answer to a request that may succeed in a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passing;

pub(crate) async fn ask(request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    // A question has no body.
    let (parts, _) = request.into_parts();
    let begin = Instant::now();
    loop {
        let response = next.clone().run(Request::from_parts(parts.clone(), Default::default())).await;
        if response.extensions().get::<Passing>().is_none() || begin.elapsed() + PAUSE > LIMIT {
            return response;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
