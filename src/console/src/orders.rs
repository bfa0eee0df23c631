//! What an operator orders of the cluster on a page or by the API: the node agent does it. Who orders over TLS is looked up
//! in the database; without it the command line is left.

use crate::api::{Answer, read};
use crate::app::App;
use crate::auth::Confirm;
use crate::pages::{Oops, View};
use crate::refusal::Refused;
use axum::Json;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use elpis_watch::{LinkError, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A node agent waits for a master by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    AddNode,
    Drain,
    Undrain,
    Switchover,
    Replace,
    Remove,
    AddAddress,
    RemoveAddress,
}

impl Order {
    pub(crate) const ALL: [Order; 8] = [
        Order::AddNode,
        Order::Drain,
        Order::Undrain,
        Order::Switchover,
        Order::Replace,
        Order::Remove,
        Order::AddAddress,
        Order::RemoveAddress,
    ];

    /// As forms and paths name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Order::AddNode => "add-node",
            Order::Drain => "drain",
            Order::Undrain => "undrain",
            Order::Switchover => "switchover",
            Order::Replace => "replace",
            Order::Remove => "remove",
            Order::AddAddress => "add-address",
            Order::RemoveAddress => "remove-address",
        }
    }

    /// What a person reads before it is done.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Order::AddNode => "Let a new node in: shows the words to type there",
            Order::Drain => "Give all work of a node away, without a gap",
            Order::Undrain => "Give work to a drained node again",
            Order::Switchover => "Make a node the database's primary",
            Order::Replace => {
                "Let a new machine take the place of a dead node: shows the words to type there"
            }
            Order::Remove => "Take a node out of the cluster for good",
            Order::AddAddress => "Add a virtual address",
            Order::RemoveAddress => "Take a virtual address away",
        }
    }

    fn of(name: &str) -> Result<Order, Refused> {
        let found = Order::ALL.into_iter().find(|order| order.name() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Order::ALL.iter().map(|order| order.name()).collect();
            Refused::missing(format!("there is no order {name:?}; there are {}", known.join(", ")))
        })
    }

    fn path(self) -> String {
        match self {
            Order::AddNode => "/v1/cluster/add-node".to_owned(),
            Order::Switchover => "/v1/database/switchover".to_owned(),
            Order::AddAddress | Order::RemoveAddress => "/v1/cluster/address".to_owned(),
            other => format!("/v1/node/{}", other.name()),
        }
    }
}

/// Has the node agent do it; the answer is the node agent's. `node`: a node's name, or an address.
async fn give(app: &App, order: Order, node: Option<&str>, who: &str) -> Result<Value, Refused> {
    let body = match (order, node) {
        (Order::AddNode, _) => json!({}),
        (Order::AddAddress | Order::RemoveAddress, Some(address)) => {
            json!({ "address": address, "keep": order == Order::AddAddress })
        }
        (_, Some(node)) if !node.is_empty() => json!({ "node": node }),
        _ => return Err(Refused::bad("Which node? Give its name.")),
    };
    let done = ask(app, &order.path(), &body).await;
    tracing::info!(user = %who, order = order.name(), node = node.unwrap_or_default(), done = done.is_ok(), "an order");
    done
}

/// Asks the node agent for something that a person or a program orders.
pub(crate) async fn ask(app: &App, path: &str, body: &Value) -> Result<Value, Refused> {
    let asked = elpis_watch::request::<Value>(&app.node.socket, Method::POST, path, Some(body));
    let done = tokio::time::timeout(PATIENCE, asked).await;
    let done = done
        .map_err(|_| Refused::unavailable("The node agent does not answer; look at the cluster's page."))?;
    done.map_err(refusal)
}

/// The node agent's own words, with its status.
pub(crate) fn refusal(error: LinkError) -> Refused {
    match error {
        LinkError::Refused { status, error } => {
            Refused::new(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), error)
        }
        other => other.into(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    node: Option<String>,
}

/// `POST /api/v1/cluster/ORDER`.
pub(crate) async fn by_api(State(app): State<Arc<App>>, Path(order): Path<String>, body: Bytes) -> Answer {
    let named: Named = read(&body)?;
    let done = give(&app, Order::of(&order)?, named.node.as_deref(), "api").await?;
    Ok(Json(done).into_response())
}

#[derive(Deserialize)]
pub(crate) struct Ordered {
    order: String,
    node: String,
    #[serde(flatten)]
    confirm: Confirm,
}

pub(crate) async fn page(view: View) -> Response {
    view.orders(None, "", "")
}

pub(crate) async fn submit(
    view: View,
    State(app): State<Arc<App>>,
    Form(form): Form<Ordered>,
) -> Result<Response, Oops> {
    form.confirm.check(&view.person)?;
    let order = Order::of(&form.order)?;
    let node = form.node.trim();
    Ok(match give(&app, order, Some(node), &view.person.name).await {
        Ok(done) => view.orders(Some(order), &said(order, node, &done), ""),
        Err(refused) => (refused.status, view.orders(Some(order), "", &refused.text)).into_response(),
    })
}

/// PURE: what an order came to.
fn said(order: Order, node: &str, done: &Value) -> String {
    let text = |name: &str| done[name].as_str().unwrap_or_default();
    let (address, words) = (text("address"), text("words"));
    match order {
        Order::AddNode => format!("On the new machine: elpis join {address} {words}"),
        Order::Replace => {
            format!("On the machine that takes the place of {node}: elpis join {address} {words}")
        }
        Order::Drain => format!("{node} gives its work away."),
        Order::Undrain => format!("{node} takes work again."),
        Order::Switchover => format!("{node} becomes the database's primary."),
        Order::Remove => format!("{node} is out of the cluster."),
        Order::AddAddress => {
            format!("{node} is held by a node in a moment; the cluster's page says by which.")
        }
        Order::RemoveAddress => format!("{node} is held by no node any more."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shown_and_orders_are_known_by_name() {
        let text = said(Order::AddNode, "", &json!({ "address": "10.0.0.1:7946", "words": "a b" }));
        assert_eq!(text, "On the new machine: elpis join 10.0.0.1:7946 a b");
        assert!(Order::ALL.iter().all(|order| Order::of(order.name()).is_ok_and(|of| of == *order)));
        assert!(Order::of("reboot").is_err());
    }
}
