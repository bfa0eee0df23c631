//! A newer version for all nodes: what runs, the image that came, what would be done, how far it is.

use super::layout::{Live, View};
use super::{mark_as, time_as};
use crate::status::{Status, Update};
use crate::update::Plan;
use axum::response::Response;
use maud::{Markup, html};

impl View {
    /// `error`: why the last order was not carried out, or empty.
    pub(crate) fn update(&self, plan: Result<&Plan, &str>, error: &str) -> Response {
        let status = self.cluster.as_deref();
        let going = status.and_then(|status| status.update.as_ref()).filter(|update| update.state == "going");
        let body = html! {
            div.head { h1 { "Update" } a href="/cluster" { "back to the cluster" } }
            @if !error.is_empty() { p.note.bad role="alert" { (error) } }
            div.stack {
                @if let Some(status) = status {
                    section.panel { header { h2 { "Nodes" } } (versions(status)) }
                    @if let Some(update) = &status.update { section.panel { (rollout(update)) } }
                }
                @if going.is_some() {
                    form.pad method="post" action="/cluster/update/order" {
                        (self.csrf())
                        button.button name="order" value="stop" { "Stop the update" }
                    }
                } @else {
                    (self.take())
                    section.panel.account { header { h2 { "All nodes, one after the other" } } (self.begin(plan)) }
                }
            }
            p.muted { "The same by API: " code { "curl -T elpis.iso https://…/api/v1/update/image" } " or " code { "POST /api/v1/update/fetch" } ", then " code { "POST /api/v1/update/start" } "." }
        };
        // A file that is chosen must stay; a rollout is followed.
        self.show("Update", "Cluster", &Live::Refresh(if going.is_some() { 2 } else { 0 }), &body)
    }

    fn take(&self) -> Markup {
        html! {
            section.panel.account {
                header { h2 { "Image" } span.muted { "signed by who made these machines' image" } }
                form.pad method="post" action="/cluster/update/image" enctype="multipart/form-data" {
                    (self.csrf())
                    label { "The file elpis-VERSION.iso" input type="file" name="image" accept=".iso" required; }
                    button.button.main { "Send it to this node" }
                }
                form.pad method="post" action="/cluster/update/fetch" {
                    (self.csrf())
                    label { "Or an address that this node fetches it from" input type="url" name="url" maxlength="2048" placeholder="https://" required; }
                    button.button { "Fetch it" }
                }
            }
        }
    }

    fn begin(&self, plan: Result<&Plan, &str>) -> Markup {
        let plan = match plan {
            Ok(plan) => plan,
            Err(why) => return html! { p.pad.muted { (why) } },
        };
        let pause = plan.against.iter().any(|text| text.contains("--with-pause"));
        html! {
            form.pad method="post" action="/cluster/update/order" {
                (self.csrf())
                p { "Version " strong { (plan.version) } ": " (plan.nodes.join(", ")) ", about " (plan.seconds / 60) " minutes. A node "
                    "gives its work away, starts anew and is watched for a minute before the next one's turn." }
                @if !plan.against.is_empty() { ul.note { @for text in &plan.against { li { (text) } } } }
                @if pause { label { input type="checkbox" name="with_pause" value="1"; " Monitoring may pause meanwhile" } }
                button.button.main name="order" value="start" { "Update all nodes" }
            }
        }
    }
}

fn versions(status: &Status) -> Markup {
    html! {
        table {
            thead { tr { th { "Node" } th { "State" } th { "Version" } th { "Image" } } }
            tbody {
                @for node in &status.nodes {
                    tr { td { (node.name) } td { (node.state) } td { (node.program) } td { (node.image) } }
                }
            }
        }
    }
}

fn rollout(update: &Update) -> Markup {
    let (state, words) = match update.state.as_str() {
        "going" => ("unknown", "goes on"),
        "done" => ("normal", "done"),
        _ => ("critical", "stopped"),
    };
    html! {
        header { h2 { "To version " (update.version) } (mark_as(state, words))
            span.muted { "begun " (time_as(update.begun_ms / 1000, "%Y-%m-%d %H:%M:%S")) } }
        @if let Some(why) = &update.why { p.note.bad { (why) } }
        table {
            thead { tr { th { "Node" } th { "From" } th { "Now" } } }
            tbody {
                @for node in &update.nodes { tr { td { (node.name) } td { (node.from) } td { (node.text) } } }
            }
        }
    }
}
