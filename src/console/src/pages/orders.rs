//! Orders to the cluster: which, for which node, and what came of the last one.

use super::layout::{Live, View};
use crate::orders::Order;
use axum::response::Response;
use maud::html;

impl View {
    /// `said` and `error`: what the last order came to, one of them, or both empty.
    pub(crate) fn orders(&self, last: Option<Order>, said: &str, error: &str) -> Response {
        let nodes = self.cluster.iter().flat_map(|status| &status.nodes);
        let body = html! {
            div.head { h1 { "Orders" } a href="/cluster" { "back to the cluster" } }
            @if !said.is_empty() { p.note role="status" { (said) } }
            section.panel.account {
                header { h2 { "Order" } span.muted { "typing the name confirms it" } }
                form.pad method="post" action="/cluster/orders" {
                    @if !error.is_empty() { p.error role="alert" { (super::mark_as("critical", "")) " " (error) } }
                    (self.csrf())
                    label { "What"
                        select name="order" {
                            @for order in Order::ALL { option value=(order.name()) selected[last == Some(order)] { (order.text()) } }
                        }
                    }
                    label { "Name of the node, or the address (nothing for a new node)" input type="text" name="node" list="nodes" maxlength="150" autocomplete="off" spellcheck="false"; }
                    datalist #nodes { @for node in nodes { option value=(node.name) { (node.state) } } }
                    button.button.main { "Do it" }
                }
            }
            p.muted { "The same by command: " code { "elpis node drain NAME" } ", " code { "elpis database switchover NAME" } ", and by " code { "POST /api/v1/cluster/ORDER" } "." }
        };
        // What is typed must stay.
        self.show("Orders", "Cluster", &Live::Refresh(0), &body)
    }
}
