//! What is answered when something cannot be done.

use crate::again::Passing;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use elpis_store::StoreError;
use elpis_watch::{LinkError, Refusal, VERSION};

/// A status and a sentence: what happened, why, what to do now.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// The same question may be answered in a moment.
    pub(crate) passing: bool,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused { status, text: text.into(), passing: false }
    }
    pub(crate) fn bad(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, text)
    }
    pub(crate) fn missing(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::NOT_FOUND, text)
    }
    pub(crate) fn unavailable(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }
    pub(crate) fn internal(text: impl Into<String>) -> Refused {
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        match &error {
            StoreError::NotFound(_) => Refused::missing(error.to_string()),
            StoreError::Invalid(_) => Refused::bad(error.to_string()),
            error if error.is_passing() => {
                Refused { passing: true, ..Refused::unavailable(error.to_string()) }
            }
            _ => {
                tracing::warn!(%error, "the database did not do it");
                Refused::unavailable(error.to_string())
            }
        }
    }
}

impl From<LinkError> for Refused {
    fn from(error: LinkError) -> Refused {
        Refused::unavailable(error.to_string())
    }
}

impl Refused {
    /// Tells [`again`](crate::again) whether to ask again.
    pub(crate) fn mark(&self, mut response: Response) -> Response {
        if self.passing {
            response.extensions_mut().insert(Passing(self.text.clone()));
        }
        response
    }
}

/// As JSON, for programs.
impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let refusal = Refusal { version: VERSION, error: self.text.clone() };
        let body = serde_json::to_string(&refusal).unwrap_or_default();
        self.mark((self.status, [(CONTENT_TYPE, "application/json")], body).into_response())
    }
}
