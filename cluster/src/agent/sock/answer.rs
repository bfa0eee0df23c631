//! Answers and refusals.

use crate::agent::registry::Unwanted;
use crate::bootstrap::JoinError;
use crate::raft_node::NodeError;
use bytes::Bytes;
use elpis_watch::{Refusal, VERSION};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::convert::Infallible;

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// A refusal: status and words.
#[derive(Debug)]
pub(crate) struct No(pub(crate) StatusCode, pub(crate) String);

impl No {
    pub(crate) fn bad(why: impl Into<String>) -> No {
        No(StatusCode::BAD_REQUEST, why.into())
    }

    pub(crate) fn no_cluster() -> No {
        let why = "this node belongs to no cluster yet; run `elpis cluster init` here, or `elpis join`";
        No(StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
    }
}

impl From<Unwanted> for No {
    fn from(why: Unwanted) -> No {
        let status = match why {
            // The only meaning of this status on this socket: the process must go.
            Unwanted::Superseded(_) => StatusCode::CONFLICT,
            Unwanted::NoRole(_) => StatusCode::FORBIDDEN,
            Unwanted::Unknown(_) | Unwanted::Disk(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        No(status, why.to_string())
    }
}

impl From<NodeError> for No {
    fn from(error: NodeError) -> No {
        let status = match &error {
            NodeError::Refused(_) | NodeError::HasCluster(_) => StatusCode::UNPROCESSABLE_ENTITY,
            NodeError::NoLeader | NodeError::NoCluster => StatusCode::SERVICE_UNAVAILABLE,
            // Not to be sent again, nor to another node, before somebody has looked.
            NodeError::OutcomeUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        No(status, error.to_string())
    }
}

impl From<JoinError> for No {
    fn from(error: JoinError) -> No {
        match error {
            JoinError::Node(error) => error.into(),
            error @ (JoinError::Words(_) | JoinError::Refused(_)) => {
                No(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
            error => No(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

/// A JSON answer.
pub(super) fn json(value: &impl Serialize) -> Result<Response<Body>, No> {
    let body = serde_json::to_vec(value).map_err(|error| {
        No(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}"))
    })?;
    Ok(of(StatusCode::OK, "application/json", body))
}

/// Text for people and for collectors.
pub(super) fn text(body: String) -> Response<Body> {
    of(StatusCode::OK, "text/plain; version=0.0.4", body.into_bytes())
}

/// A refusal as it goes out.
pub(super) fn refuse(No(status, error): No) -> Response<Body> {
    let body = serde_json::to_vec(&Refusal { version: VERSION, error }).unwrap_or_default();
    of(status, "application/json", body)
}

fn of(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
