//! The command line: what commands there are and what they take. No work is done here.

mod appliance;
mod dev;
mod servers;

pub(crate) use appliance::Appliance;
pub(crate) use dev::{Demo, Dev, Feed, Up};
pub(crate) use servers::{
    AddressKeeperOptions, ConsoleOptions, DataServerOptions, DbGateOptions, LogForwarderOptions,
    NetworkServerOptions, NodeDaemon, Profile, TentacleServerOptions,
};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed, the reason is on standard error; 2 the command line is wrong;
3 (servers) another process of the same kind took over.

Which cluster: --dir or ELPIS_DEV_DIR name the folder of a development cluster; else the node of this machine
(/run/elpis); else ./.elpis-dev.";

/// High-availability monitoring, wire-compatible with Pandora FMS.
#[derive(Debug, Parser)]
#[command(name = "elpis", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every operator's command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Scope {
    /// Folder of a development cluster
    #[arg(long, global = true, env = "ELPIS_DEV_DIR", value_name = "DIR", help_heading = "Which cluster")]
    pub(crate) dir: Option<PathBuf>,
    /// Ask this node of the development cluster, not the first that answers
    #[arg(long, global = true, value_name = "NODE", help_heading = "Which cluster")]
    pub(crate) on: Option<String>,
    /// Print JSON
    #[arg(long, global = true, help_heading = "Which cluster")]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node agent; or drain, undrain, remove, replace a node, change what it logs
    Node(NodeCommand),
    /// Run the gate through which this node's servers reach the database
    DbGate(DbGateOptions),
    /// Run the server that takes agents' files
    TentacleServer(TentacleServerOptions),
    /// Run the server that turns agents' files into samples
    DataServer(DataServerOptions),
    /// Run the server of network checks
    NetworkServer(NetworkServerOptions),
    /// Run the web console and the API
    Console(ConsoleOptions),
    /// Hold the virtual addresses that the cluster gives to this node (needs CAP_NET_ADMIN and CAP_NET_RAW)
    AddressKeeper(AddressKeeperOptions),
    /// Send this machine's journal to a log server: syslog over TLS (RFC 5424, RFC 5425)
    LogForwarder(LogForwarderOptions),
    /// Form a cluster, let a node in, see how it stands
    #[command(subcommand)]
    Cluster(Cluster),
    /// Let this machine's node join a cluster, with the words of `elpis cluster add-node`
    Join(Join),
    /// Agents: list, show, delete
    #[command(subcommand)]
    Agent(Agent),
    /// Modules: list, run now, delete
    #[command(subcommand)]
    Module(Module),
    /// Network checks: add, list
    #[command(subcommand)]
    Check(Check),
    /// Events: list
    #[command(subcommand)]
    Event(Event),
    /// The run ledger: which checks ran, which were missed, which ran twice
    #[command(subcommand)]
    Ledger(Ledger),
    /// People who sign in to the console
    #[command(subcommand)]
    User(User),
    /// The database: its schema, and which node leads it
    #[command(subcommand)]
    Database(Database),
    /// A newer version for all nodes of an appliance's cluster, one after the other; without an order: how far it is
    Update {
        #[command(subcommand)]
        order: Option<Update>,
    },
    /// Send and fetch files over Tentacle
    #[command(subcommand)]
    TentacleClient(TentacleClient),
    /// One file with what is needed to find a fault from afar, without passwords, keys and tokens
    SupportBundle(SupportBundle),
    /// This machine, where it is an appliance: its first start, its status screen
    #[command(subcommand)]
    Appliance(Appliance),
    /// A whole cluster in one folder of this machine, to develop, test and try
    #[command(subcommand)]
    Dev(Dev),
    /// Print the completion script of a shell
    Completion { shell: Shell },
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct NodeCommand {
    #[command(flatten)]
    pub(crate) daemon: Option<NodeDaemon>,
    #[command(subcommand)]
    pub(crate) command: Option<NodeOrder>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeOrder {
    /// Move all work away from a node, without a gap
    Drain { node: String },
    /// Give work to a drained node again
    Undrain { node: String },
    /// Take a node out of the cluster for good
    Remove { node: String },
    /// Print the words with which a new machine takes the place and the name of a dead node; refused while that node lives
    Replace { node: String },
    /// Change what a node logs, for a while; without a level: show it
    LogLevel(LogLevel),
}

#[derive(Args, Debug)]
pub(crate) struct LogLevel {
    pub(crate) node: String,
    /// "debug", "info,elpis_probe=trace", "default" (what it was started with). A level alone is for Elpis's own
    /// code; libraries are named, e.g. openraft=info
    pub(crate) level: Option<String>,
    /// Only this process of the node: node (its node agent) or a server, e.g. network-server
    #[arg(long, value_parser = roles())]
    pub(crate) role: Option<String>,
    /// Time after which it returns to what it was started with: 30s, 10m, 2h
    #[arg(long = "for", value_name = "TIME", requires = "level", default_value = "15m",
        value_parser = crate::operate::time::seconds)]
    pub(crate) time: u64,
}

fn roles() -> clap::builder::PossibleValuesParser {
    std::iter::once("node").chain(elpis_watch::Role::ALL.map(elpis_watch::Role::as_str)).into()
}

#[derive(Debug, Subcommand)]
pub(crate) enum Update {
    /// Give an image to this node: signed, and not older than what runs
    Take {
        /// The file elpis-VERSION.iso, or an address to fetch it from, as https://HOST/elpis-VERSION.iso
        #[arg(value_name = "FILE|URL")]
        image: String,
    },
    /// Say which nodes would be updated, in which order, how long it takes, and what stands against it
    Plan {
        #[arg(long)]
        with_pause: bool,
    },
    /// Begin: each node writes the image, gives its work away, starts anew and is watched; whatever fails stops it
    Start {
        /// Also where nobody can take a node's work meanwhile: monitoring pauses
        #[arg(long)]
        with_pause: bool,
        /// Each node is watched for so long before the next one's turn
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
        watch: u32,
    },
    /// Stop: no further node is touched, and the one in turn gets its work back
    Stop,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AddressOrder {
    /// Add one, some node takes it at once; the nodes need an interface in its network
    Add {
        /// Of IPv4, as 10.0.0.50
        address: String,
    },
    /// Take one away
    Remove { address: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Give somebody who lost it a new password and end all of their sessions; without a file it is made, printed, and to be
    /// changed at the first sign-in
    ResetPassword {
        #[arg(default_value = "admin")]
        name: String,
        /// File with the new password; "-" = standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Make a cluster of this one node; without an address of a database the nodes run one themselves
    Init(Init),
    /// Name the database and its administration account, with which the nodes' own accounts are made
    Database(DatabaseArgs),
    /// Print the words with which one new node may join
    AddNode,
    /// Virtual addresses: one node holds each, and another one when that is lost
    #[command(subcommand)]
    Address(AddressOrder),
    /// Show how quickly silent nodes are given up, and what the machines leave for it; with a name: change it while the
    /// cluster works, the node agents start anew one after the other
    Profile {
        #[arg(value_parser = ["lan", "safe", "metro"])]
        profile: Option<String>,
    },
    /// The majority of the nodes is lost for good: this node goes on alone, as a new generation. Shows first what would be
    /// given up; refused while a majority answers. See docs/lost-majority.md
    Recover(Recover),
    /// Show nodes, leases, shards and failovers; works without the database
    Status {
        /// Redraw every second until interrupted
        #[arg(long)]
        watch: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// The node that goes on: the one on which this is run, and the one with most of the database
    #[arg(long, value_name = "NODE", required = true, value_delimiter = ',')]
    pub(crate) survivors: Vec<String>,
    /// Names of the nodes that are powered off for good, instead of typing them
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub(crate) confirm: Option<Vec<String>>,
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Name of the cluster
    #[arg(default_value = "elpis")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) database: Option<DatabaseArgs>,
}

/// A database and how to get in. No option takes a password: other users see command lines.
#[derive(Args, Clone, Debug)]
pub(crate) struct DatabaseArgs {
    /// mysql://HOST:PORT/NAME, or mysql://localhost/NAME?socket=/PATH
    #[arg(long = "database-url", value_name = "URL")]
    pub(crate) url: String,
    /// Administration account: CREATE USER, and all on the database WITH GRANT OPTION
    #[arg(long = "database-user", value_name = "USER", default_value = "elpis")]
    pub(crate) user: String,
    /// File with the account's password; "-" or nothing: standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Join {
    /// Cluster address (host:port) of a member
    pub(crate) address: String,
    /// The six words
    #[arg(required = true, num_args = 1..=6)]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// All agents
    List,
    /// One agent with its modules
    Show { agent: String },
    /// Delete an agent with its modules
    Delete { agent: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Module {
    /// Modules with their states
    List {
        /// Only those of this agent
        #[arg(long)]
        agent: Option<String>,
    },
    /// Run a network check now
    Run { id: u64 },
    /// Delete a module
    Delete { id: u64 },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Check {
    /// Add a network check, e.g. `elpis check add "tcp mail:25"`
    Add(CheckAdd),
    /// Network checks with target and interval
    List,
}

#[derive(Args, Debug)]
pub(crate) struct CheckAdd {
    /// "ping HOST", "tcp HOST:PORT", "udp HOST:PORT TEXT", "snmp HOST OID"
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub(crate) check: Option<String>,
    /// Read many checks, one a line; "-": standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Agent that gets the module. Without: the one named after the target, made if missing
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Name of the module
    #[arg(long, conflicts_with = "from")]
    pub(crate) name: Option<String>,
    /// Seconds between two runs
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) interval: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Event {
    /// Newest events
    List {
        #[arg(long)]
        agent: Option<String>,
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Count the slots due, recorded, missed and recorded twice
    Check {
        /// Begin: Unix seconds, 2026-11-25T10:00:00Z, or an age like 10m; without: since the cluster started
        #[arg(long, value_parser = crate::operate::time::parse)]
        from: Option<i64>,
        /// End, same forms; without: now
        #[arg(long, value_parser = crate::operate::time::parse)]
        to: Option<i64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Database {
    /// Make the schema, or bring it up to this version
    Migrate(DatabaseArgs),
    /// Make another node's copy the primary; writing stops for a moment, nothing is lost
    Switchover {
        /// Name or id of the node
        node: String,
    },
    /// Make this node's copy the primary without nodes that are lost for good; rows that it lacks are lost
    Adopt(Adopt),
}

#[derive(Args, Debug)]
pub(crate) struct Adopt {
    /// Name or id of the node whose copy goes on; `elpis cluster status` says which has most
    pub(crate) node: String,
    /// The lost nodes: the primary, and all others that are away
    #[arg(long, value_name = "NODE", required = true, value_delimiter = ',')]
    pub(crate) without: Vec<String>,
    /// Name of the lost primary, instead of typing it
    #[arg(long, value_name = "NAME")]
    pub(crate) confirm: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TentacleClient {
    /// Send files
    Send {
        #[command(flatten)]
        server: TentacleTarget,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Fetch files by name
    Fetch {
        #[command(flatten)]
        server: TentacleTarget,
        #[arg(required = true)]
        names: Vec<String>,
        /// Folder to write them to
        #[arg(long, default_value = ".")]
        into: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct SupportBundle {
    /// File to write; without: elpis-support-TIME.tar.gz here
    #[arg(long, value_name = "FILE.tar.gz")]
    pub(crate) out: Option<PathBuf>,
    /// MiB of the end of each log
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) log_mib: u32,
}

#[derive(Args, Debug)]
pub(crate) struct TentacleTarget {
    /// host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: String,
    /// TLS; the server's certificate is not verified
    #[arg(long)]
    pub(crate) tls: bool,
    /// TLS; the server's certificate is verified against this CA (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// File with the server's password; "-": standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

/// Writes a completion script to standard output.
pub(crate) fn completion(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "elpis", &mut script);
    crate::output::print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn node_is_the_daemon_or_an_order() {
        let daemon = "elpis node --data /d --name n1 --listen 127.0.0.1:1 --spool-address 127.0.0.1:2 \
                      --console-address 127.0.0.1:3";
        let cli = Cli::try_parse_from(daemon.split_whitespace()).unwrap();
        assert!(matches!(cli.command, Command::Node(NodeCommand { daemon: Some(_), command: None })));
        let cli = Cli::try_parse_from(["elpis", "node", "drain", "n2"]).unwrap();
        assert!(matches!(
            cli.command,
            Command::Node(NodeCommand { command: Some(NodeOrder::Drain { .. }), .. })
        ));
        assert!(Cli::try_parse_from(["elpis", "node", "--data", "/d"]).is_err());
    }

    #[test]
    fn no_option_takes_a_password() {
        fn walk(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert_ne!(argument.get_long(), Some("password"), "{}", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
