//! The own account: its password.

use super::layout::{Live, View};
use axum::response::Response;
use maud::html;

/// A page that follows nothing: what is typed must stay.
const STILL: Live = Live::Refresh(0);

impl View {
    /// `error` is empty or says why the password was not changed.
    pub(crate) fn account(&self, error: &str, changed: bool) -> Response {
        let name = &self.person.name;
        let body = html! {
            div.head { h1 { "Account " (name) } }
            @if changed {
                p.note role="status" { strong { "Changed. " } "All other sessions of this account have ended." }
            }
            section.panel.account {
                header { h2 { "Password" } }
                form.pad method="post" action="/account" {
                    @if !error.is_empty() { p.error role="alert" { (super::mark_as("critical", "")) " " (error) } }
                    (self.csrf())
                    input type="hidden" name="username" value=(name) autocomplete="username";
                    label { "Current password" input type="password" name="current" autocomplete="current-password" required; }
                    label { "New password, at least 12 characters" input type="password" name="new" autocomplete="new-password" minlength="12" maxlength="128" required; }
                    label { "The same again" input type="password" name="again" autocomplete="new-password" minlength="12" maxlength="128" required; }
                    button.button.main { "Change the password" }
                }
            }
            p.muted { "Who lost it: " code { "elpis user reset-password " (name) } " on a node, or the key " kbd { "w" } " of an appliance's screen." }
        };
        self.show("Account", "", &STILL, &body)
    }
}
