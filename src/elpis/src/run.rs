//! Composes the processes of a node from the libraries: one function a process.
//!
//! Each follows the same order: log, signals, the library's `run` until SIGTERM, exit code.

use crate::appliance::machine::Appliance;
use crate::cli::{
    AddressKeeperOptions, ConsoleOptions, DataServerOptions, DbGateOptions, LogForwarderOptions,
    NetworkServerOptions, NodeDaemon, Profile, TentacleServerOptions,
};
use anyhow::{Context, Result};
use elpis_addresses::AddressError;
use elpis_appliance::answers::LogServer;
use elpis_cluster::agent::database::Hand;
use elpis_cluster::agent::{self, AgentConfig};
use elpis_cluster::{profile, raft_node};
use elpis_console::{ConsoleConfig, ConsoleError};
use elpis_database::Config;
use elpis_database::gate::{self, GateConfig};
use elpis_monitor::Shard;
use elpis_servers::Ended;
use elpis_servers::data::{self, DataConfig};
use elpis_servers::network::{self, NetworkConfig};
use elpis_tentacle::server::{self as tentacle, AgentTls, ServerConfig};
use elpis_watch::{Link, LinkError, Role};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The servers that a node runs unless told otherwise.
pub(crate) const BUILT: &[Role] = &Role::ALL;
/// A server whose place was taken by another process.
const SUPERSEDED: u8 = 3;
/// The command line is wrong.
const USAGE: u8 = 2;

pub(crate) fn node(options: Option<NodeDaemon>) -> ExitCode {
    let Some(options) = options else {
        eprintln!("elpis: `elpis node` needs --data, --name and its addresses; see `elpis node --help`");
        return ExitCode::from(USAGE);
    };
    let mut roles = Vec::new();
    for name in &options.roles {
        match Role::ALL.into_iter().find(|role| role.as_str() == name) {
            Some(role) => roles.push(role),
            None => {
                let known = Role::ALL.map(Role::as_str).join(", ");
                eprintln!("elpis: there is no role {name}; roles are {known}");
                return ExitCode::from(USAGE);
            }
        }
    }
    if roles.is_empty() {
        // Without an address for a gate there is none.
        let gate = options.gate_address.is_some();
        let runs = |role: &Role| match role {
            Role::DbGate => gate,
            Role::AddressKeeper => options.virtual_addresses,
            _ => true,
        };
        roles = BUILT.iter().copied().filter(runs).collect();
    }
    let users = match own_users(options.own_users) {
        Ok(users) => users,
        Err(error) => {
            eprintln!("elpis: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    // Until it is measured, and for a node of a cluster of before profiles, the one that needs least of a machine.
    let profile = options.profile.named().unwrap_or(profile::Profile::Metro);
    let keeps = options.gate_address.is_some();
    let database = Config {
        data: options.data.clone(),
        memory_mib: options.database_memory.unwrap_or_else(quarter_of_memory_mib),
        copy_bytes_per_s: u64::from(options.database_copy_rate) << 20,
        reserve_bytes: options.database_reserve.map(|mib| u64::from(mib) << 20),
    };
    let config = AgentConfig {
        measured: options.profile == Profile::Auto,
        database: keeps.then(|| Hand::new(move |wires| elpis_database::run(database.clone(), wires))),
        socket: options.data.join("run/node.sock"),
        roles,
        users,
        accounts: crate::accounts::maker(),
        machine: options.update_orders.map(|orders| {
            let machine: Arc<dyn agent::update::Machine> = Arc::new(Appliance { orders });
            machine
        }),
        raft: raft_node::Config {
            data_dir: options.data,
            name: options.name,
            listen: options.listen,
            advertise: options.advertise.unwrap_or_else(|| options.listen.to_string()),
            spool_address: options.spool_address,
            console_address: options.console_address,
            gate_address: options.gate_address.unwrap_or_default(),
            profile,
        },
    };
    serve(async move |stop| Ok(agent::run(config, stop).await?))
}

/// Users of the servers. From then on no child has this process's capabilities: MariaDB needs none of them.
fn own_users(wanted: bool) -> Result<BTreeMap<u32, Role>> {
    let mut users = BTreeMap::new();
    if !wanted {
        return Ok(users);
    }
    rustix::thread::clear_ambient_capability_set().context("capabilities cannot be kept from children")?;
    for role in BUILT {
        let name = format!("elpis-{}", role.as_str());
        let user = nix::unistd::User::from_name(&name).with_context(|| format!("cannot look up {name}"))?;
        let user = user.with_context(|| format!("there is no user {name}"))?;
        users.insert(user.uid.as_raw(), *role);
    }
    Ok(users)
}

/// Memory of a database on a machine that does other things too.
fn quarter_of_memory_mib() -> u32 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    total.map_or(256, |kib: u64| u32::try_from(kib / 1024 / 4).unwrap_or(u32::MAX).max(128))
}

pub(crate) fn db_gate(options: DbGateOptions) -> ExitCode {
    serve(async move |stop| {
        let link = Link::connect(&options.place.socket, Role::DbGate).await?;
        let keys = options.keys.unwrap_or_else(|| options.place.data.clone());
        let config = GateConfig { data: options.place.data, keys, listen: options.listen };
        until_superseded(&link, gate::run(config, link.clone(), stop)).await
    })
}

pub(crate) fn address_keeper(options: AddressKeeperOptions) -> ExitCode {
    serve(async move |stop| match elpis_addresses::run(&options.socket, stop).await {
        // By its own type, so that the exit code is right.
        Err(AddressError::Link(error)) => Err(error.into()),
        done => Ok(done?),
    })
}

pub(crate) fn log_forwarder(options: LogForwarderOptions) -> ExitCode {
    let LogServer { host, port, sha256 } = options.to;
    let server = elpis_logs::Server { host, port, sha256 };
    let config = elpis_logs::Config::new(server, options.data, options.trouble);
    serve(async move |stop| Ok(elpis_logs::run(config, stop).await?))
}

pub(crate) fn data_server(options: DataServerOptions) -> ExitCode {
    let config = DataConfig { socket: options.place.socket, spool: options.place.data.join("spool") };
    serve(async move |stop| ended(data::run(config, stop).await?))
}

pub(crate) fn network_server(options: NetworkServerOptions) -> ExitCode {
    let mut config = NetworkConfig::new(options.socket);
    config.ledger = !options.no_run_list;
    serve(async move |stop| ended(network::run(config, stop).await?))
}

pub(crate) fn console(options: ConsoleOptions) -> ExitCode {
    let mut config = ConsoleConfig::new(options.place.socket, options.place.data);
    config.listen = options.listen;
    if let Some(file) = options.admin_password {
        config.admin_password = file;
        config.admin_password_stands = true;
    }
    config.certificate = options.certificate.zip(options.certificate_key);
    serve(async move |stop| match elpis_console::run(config, stop).await {
        // By its own type, so that the exit code is right.
        Err(ConsoleError::Link(error)) => Err(error.into()),
        done => Ok(done?),
    })
}

/// A server's end as a result: code 3 for one whose place was taken.
fn ended(how: Ended) -> Result<()> {
    match how {
        Ended::Stopped => Ok(()),
        Ended::Superseded => Err(LinkError::Superseded("another process registered".into()).into()),
    }
}

pub(crate) fn tentacle_server(options: TentacleServerOptions) -> ExitCode {
    serve(async move |stop| {
        let link = Link::connect(&options.place.socket, Role::TentacleServer).await?;
        let data = &options.place.data;
        let keys = options.keys.as_ref().unwrap_or(data);
        let mut config = ServerConfig::new(options.listen, data.join("spool"), keys.join("node.key"));
        config.spool_listen = Some(options.spool_listen);
        config.plain_from.extend(options.plain_from);
        if options.tls {
            let own = options.certificates.as_ref().unwrap_or(data);
            let (cert, key) = (own.join("tentacle.crt"), own.join("tentacle.key"));
            elpis_console::make_certificate(&cert, &key, &link.welcome().name, options.listen.ip())
                .with_context(|| format!("cannot make {}", cert.display()))?;
            config.tls = Some(AgentTls { cert, key, ca: None });
        }
        let clock = link.clone();
        let cluster = tentacle::Cluster {
            node: link.welcome().node,
            map: link.map(),
            now_ms: Arc::new(move || clock.cluster_now_ms()),
        };
        let shard_of: tentacle::ShardOf = Arc::new(|name| Shard::of_file(name).map(Shard::number));
        until_superseded(&link, tentacle::run(config, cluster, shard_of, stop)).await
    })
}

/// Runs a server's work; ends early when another process takes its place.
async fn until_superseded<E>(link: &Link, work: impl Future<Output = Result<(), E>>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    tokio::select! {
        done = work => Ok(done?),
        () = link.superseded() => Err(LinkError::Superseded("another process registered".into()).into()),
    }
}

/// Log, runtime, signals, exit code around the work of a process.
fn serve(work: impl AsyncFnOnce(CancellationToken) -> Result<()>) -> ExitCode {
    let log = crate::log::to_stderr();
    let run = || -> Result<()> {
        let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
        runtime.block_on(async {
            tokio::spawn(log.follow());
            let stop = CancellationToken::new();
            let (mut terminate, mut interrupt) =
                (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let order = stop.clone();
            tokio::spawn(async move {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                tracing::info!("stopping");
                order.cancel();
            });
            work(stop).await
        })
    };
    let done = run();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.downcast_ref::<LinkError>().is_some_and(|e| matches!(e, LinkError::Superseded(_))) => {
            tracing::warn!("{e:#}");
            ExitCode::from(SUPERSEDED)
        }
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// A runtime of one thread, for the command line.
pub(crate) fn small_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}
