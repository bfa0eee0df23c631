//! The machine that Elpis owns: what it is called, what it was told, its disks, and what its screen says.
//!
//! Nothing here asks a node or changes the system: the binary does, with what this crate decides.

pub mod answers;
pub mod audit;
pub mod disk;
pub mod identity;
pub mod install;
pub mod iso9660;
pub mod keys;
pub mod medium;
pub mod owners;
pub mod screen;
pub mod slots;
pub mod view;
