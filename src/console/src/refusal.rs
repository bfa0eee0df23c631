//! What is answered when something cannot be done.

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
}

impl Refused {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused { status, text: text.into() }
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

/// As JSON, for programs.
impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&Refusal { version: VERSION, error: self.text }).unwrap_or_default();
        (self.status, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}
