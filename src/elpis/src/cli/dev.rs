//! Commands of the development cluster.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Start the cluster of a folder (made if it is not there), with its own MariaDB
    Up(Up),
    /// Stop everything
    Down,
    /// SIGKILL all processes of a node at once; `start` brings it back
    Kill(NodeArg),
    /// Stop a node in order (SIGTERM)
    Stop(NodeArg),
    /// SIGSTOP all processes of a node: it hangs
    Pause(NodeArg),
    /// Let a paused node go on
    Resume(NodeArg),
    /// Start a killed or stopped node
    Start(NodeArg),
    /// Which processes run
    Status,
    /// Print addresses, folders and process ids as shell lines
    Env,
    /// The process that keeps the others running
    #[command(hide = true)]
    Supervise,
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Return when the cluster is ready; without: stay, and stop it on Ctrl-C
    #[arg(long)]
    pub(crate) detach: bool,
    /// Number of nodes; a running cluster grows to it. Without: what the folder has, at first 3
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=15))]
    pub(crate) nodes: Option<u8>,
}

#[derive(Args, Debug)]
pub(crate) struct NodeArg {
    /// Name (n1, n2, …)
    pub(crate) node: String,
}
