//! The database group that the nodes run themselves: who is primary, who may acknowledge, and what each node does next.
//!
//! PURE, all of it. [`Group`] is what the cluster has agreed on; [`Planner::plan`] takes it with what the supervisors
//! report and says what to agree on next and what every supervisor is to bring about; [`supervise`] takes such an order
//! with what the node's server shows and says what to do next. Orders name a state, not a step, so that each is safe to
//! repeat by the next leader.
//!
//! Not wired into the node agent yet: the simulator runs it on servers that behave as MariaDB was measured to.

mod group;
mod logs;
mod pace;
mod plan;
mod room;
mod supervise;
mod wait;

pub use group::{Entry, Group, Member, Mode, Moved, Refused};
pub use logs::{Applied, BinaryLog, Note, Notes, Patience, applied};
pub use plan::{Order, Plan, Planner, Reach, Report};
pub use room::{Disk, Disks, Logs, Reserve, Room, reserve, reserve_bytes};
pub use supervise::{Action, Local, Memory, supervise};
pub use wait::{Seen, Unfit, Wait, may_adopt, waits};
