//! Options of the long-running processes.

use clap::{Args, ValueEnum};
use elpis_appliance::answers::LogServer;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// How quickly a silent node is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// The quickest that fits what is measured before the cluster is made
    Auto,
    /// One site, machines that do not stall: leases of 1.5 s
    Lan,
    /// Machines that stall: leases of 2.5 s
    Safe,
    /// Two sites, or machines that stall much: leases of 4 s
    Metro,
}

impl Profile {
    /// `None` = to be measured.
    pub(crate) fn named(self) -> Option<elpis_cluster::profile::Profile> {
        use elpis_cluster::profile::Profile as Named;
        match self {
            Profile::Auto => None,
            Profile::Lan => Some(Named::Lan),
            Profile::Safe => Some(Named::Safe),
            Profile::Metro => Some(Named::Metro),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct NodeDaemon {
    /// Folder of this node: key, Raft log, spool, sockets
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Name of this node
    #[arg(long)]
    pub(crate) name: String,
    /// Address for the other nodes (mTLS)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// Address under which other nodes reach this one, when it is not the one listened on
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Address of this node's spool port, told to the other nodes
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) spool_address: String,
    /// Address of this node's console, told to the other nodes
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) console_address: String,
    /// Address of this node's database gate, told to the other nodes; without: this node has no copy of the database
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) gate_address: Option<String>,
    /// Memory for the pages of this node's database, MiB; without: a quarter of the machine's
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..))]
    pub(crate) database_memory: Option<u32>,
    /// What a copy of this node's database for another node may take of disk and network, MiB a second
    #[arg(long, value_name = "MIB", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) database_copy_rate: u32,
    /// Bytes beside this node's database that are freed when its disk is full, MiB, 0 = none; without: 256 MiB, less on a
    /// disk below 5 GiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub(crate) database_reserve: Option<u32>,
    /// This node may hold virtual addresses: `elpis address-keeper` runs on it
    #[arg(long)]
    pub(crate) virtual_addresses: bool,
    /// This machine is an appliance that the cluster may update: orders for it go to this folder, for
    /// `elpis appliance obey`
    #[arg(long, value_name = "DIR")]
    pub(crate) update_orders: Option<PathBuf>,
    /// How quickly a silent node is given up, for a cluster that this node makes; who joins takes the cluster's, and a
    /// cluster changes it with `elpis cluster profile`
    #[arg(long, value_enum, default_value_t = Profile::Lan)]
    pub(crate) profile: Profile,
    /// Each server here runs as a user of its own, elpis-ROLE: the socket hears it for its own role only, and orders from
    /// the console and from this user and root alone
    #[arg(long)]
    pub(crate) own_users: bool,
    /// Servers that should run on this node; without: all
    #[arg(long, value_delimiter = ',', value_name = "ROLES")]
    pub(crate) roles: Vec<String>,
}

/// Where a server finds its node.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// node.sock of this node
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Folder of this node
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct TentacleServerOptions {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Address for agents
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// Address for second copies from other nodes (mTLS)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) spool_listen: SocketAddr,
    /// Speak TLS with agents that ask for it, with a certificate of this node's own (tentacle.crt, made once)
    #[arg(long)]
    pub(crate) tls: bool,
    /// Folder for that certificate and its key; without: the folder of this node
    #[arg(long, value_name = "DIR")]
    pub(crate) certificates: Option<PathBuf>,
    /// Folder with this node's own key, node.key; without: the folder of this node
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// Networks whose agents may come without TLS, beside the loopback
    #[arg(long, value_name = "IP/BITS", value_delimiter = ',', value_parser = network)]
    pub(crate) plain_from: Vec<(IpAddr, u8)>,
}

#[derive(Args, Debug)]
pub(crate) struct DbGateOptions {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Address for the gates of other nodes (mTLS)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// Folder with this node's own key, node.key; without: the folder of this node
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct AddressKeeperOptions {
    /// node.sock of this node
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct LogForwarderOptions {
    /// Log server; 6514 is the usual port. With the SHA-256 of a certificate, hex: it and no other, whoever has signed it;
    /// without: an authority that this machine knows has signed it for that host
    #[arg(long, value_name = "HOST:PORT[,SHA256]")]
    pub(crate) to: LogServer,
    /// Folder for the position in the journal
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// File that says what is wrong while nothing gets out
    #[arg(long, value_name = "PATH")]
    pub(crate) trouble: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct DataServerOptions {
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args, Debug)]
pub(crate) struct NetworkServerOptions {
    /// node.sock of this node
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// For measuring what the run ledger costs: leave the list of executions out of it
    #[arg(long, hide = true)]
    pub(crate) no_run_list: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ConsoleOptions {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Address for browsers and API clients (TLS)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// File with the first administrator's password; made where it is missing. Without this option it is admin.password
    /// in the folder, and must be changed at the first sign-in
    #[arg(long, value_name = "PATH")]
    pub(crate) admin_password: Option<PathBuf>,
    /// Certificate chain (PEM); without, one of our own is made once
    #[arg(long, value_name = "PATH", requires = "certificate_key")]
    pub(crate) certificate: Option<PathBuf>,
    /// Key of the certificate (PEM)
    #[arg(long, value_name = "PATH", requires = "certificate")]
    pub(crate) certificate_key: Option<PathBuf>,
}

fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("{text}: an address and the bits of its network are needed, as 10.0.0.0/8");
    elpis_appliance::answers::network(text).ok_or_else(wrong)
}
