//! Pages: HTML made on the server. Each page is a function of what was read; the rest is in `layout`.

mod account;
pub(crate) mod agents;
pub(crate) mod cluster;
pub(crate) mod events;
pub(crate) mod layout;
pub(crate) mod module;
mod orders;
pub(crate) mod overview;
mod update;
mod words;

pub(crate) use layout::{Oops, View, set_theme, sign_in};
pub(crate) use words::{encoded, mark, mark_as, short, time_as, when};
