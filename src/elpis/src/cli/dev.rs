//! Commands of the development cluster.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Start the cluster of a folder (made if it is not there), with its own database
    Up(Up),
    /// Stop everything
    Down,
    /// Stop everything and delete the folder, with all that is in it
    Remove,
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
    /// Checks, a killed node, the proof: shows how work moves, and that nothing ran twice
    Demo(Demo),
    /// Send this machine's real figures (CPU, memory, disk, load) as an agent
    Feed(Feed),
    /// The process that keeps the others running
    #[command(hide = true)]
    Supervise,
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Return when the cluster is ready; without: stay, and stop it on Ctrl-C
    #[arg(long)]
    pub(crate) detach: bool,
    /// Seconds until the cluster has to be ready: copies of a large database take their time
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) within: u64,
    /// Number of nodes; a running cluster grows to it. Without: what the folder has, at first 3
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=15))]
    pub(crate) nodes: Option<u8>,
    /// One MariaDB outside the nodes, instead of a copy on each; of a new cluster only
    #[arg(long)]
    pub(crate) one_database: bool,
    /// Send this machine's figures as an agent every 10 s (see `elpis dev feed`)
    #[arg(long)]
    pub(crate) feed: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// TCP checks, each of its own agent
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) checks: u32,
    /// Seconds between two runs of a check
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub(crate) interval: u32,
    /// Kills: the master first, then the node of the database's primary (or another one), in turn
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Leave the cluster running that the demo started
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Feed {
    /// Seconds between two files
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) interval: u32,
    /// Send one file and return
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Args, Debug)]
pub(crate) struct NodeArg {
    /// Name (n1, n2, …)
    pub(crate) node: String,
}
