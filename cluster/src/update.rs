//! A newer image over the whole cluster, one node after the other. PURE.
//!
//! Every node takes the image before anything starts anew. Then each in turn: it writes the image beside the version that
//! runs, is drained, gives the database's primary and the leadership away, starts anew, shows for a minute that it works
//! with the cluster, and takes its work again. Followers come first, the master last. Whatever fails stops the rollout,
//! says why, gives the node in turn its work back, and leaves the others alone.

mod plan;
mod rollout;
mod version;

pub(crate) use plan::stop;
pub use plan::{Act, Next, Order, Planner, Seen, Sight, WATCH_MS, against, seconds, turns};
pub use rollout::{Entry, Image, MAX_WORDS, Refused, Rollout, Step, Turn};
pub use version::is_newer;
