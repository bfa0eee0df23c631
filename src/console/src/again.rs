//! Questions that fail because the database moves are asked again: a page opened in the second of a failover comes a
//! second later, not as an error. Changes are not: they have their own rule ([`Db::write`](crate::db::Db::write)).

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use std::time::Duration;
use tokio::time::Instant;

/// Nothing is asked again after this; the command line waits three seconds for an answer.
const LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Marks the answer to a request that may succeed in a moment: why it did not.
#[derive(Clone, Debug)]
pub(crate) struct Passing(pub(crate) String);

pub(crate) async fn ask(request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return said(next.run(request).await);
    }
    // A question has no body.
    let (parts, _) = request.into_parts();
    let until = Instant::now() + LIMIT;
    let run = || next.clone().run(Request::from_parts(parts.clone(), Body::empty()));
    let mut response = run().await;
    while passing(&response) {
        let again = async {
            tokio::time::sleep(PAUSE).await;
            run().await
        };
        // The reason is better than no answer in time.
        let Ok(answer) = tokio::time::timeout_at(until, again).await else { break };
        response = answer;
    }
    said(response)
}

fn passing(response: &Response) -> bool {
    response.extensions().get::<Passing>().is_some()
}

/// Once, not for each time that it was asked.
fn said(response: Response) -> Response {
    if let Some(Passing(why)) = response.extensions().get() {
        tracing::warn!(%why, "the database did not do it");
    }
    response
}
