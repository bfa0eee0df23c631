//! The one binary of Elpis: every process of a node, the operator's commands, the development cluster.
//!
//! `cli` says what there is, `run` composes the processes from the libraries, `operate` talks to a running cluster
//! through its local sockets, `dev` keeps a whole cluster in one folder.

mod accounts;
mod appliance;
mod bundle;
mod cli;
mod dev;
mod find;
mod log;
mod operate;
mod output;
mod run;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// A fifth of a data server's time was the system's allocator, in many small texts of files.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Node(node) => match node.command {
            None => run::node(node.daemon),
            Some(order) => operate::main(&cli.scope, operate::Order::Node(order)),
        },
        Command::AddressKeeper(options) => run::address_keeper(options),
        Command::LogForwarder(options) => run::log_forwarder(options),
        Command::DbGate(options) => run::db_gate(options),
        Command::TentacleServer(options) => run::tentacle_server(options),
        Command::DataServer(options) => run::data_server(options),
        Command::NetworkServer(options) => run::network_server(options),
        Command::Console(options) => run::console(options),
        Command::Cluster(order) => operate::main(&cli.scope, operate::Order::Cluster(order)),
        Command::Join(join) => operate::main(&cli.scope, operate::Order::Join(join)),
        Command::Agent(order) => operate::main(&cli.scope, operate::Order::Agent(order)),
        Command::Module(order) => operate::main(&cli.scope, operate::Order::Module(order)),
        Command::Check(order) => operate::main(&cli.scope, operate::Order::Check(order)),
        Command::Event(order) => operate::main(&cli.scope, operate::Order::Event(order)),
        Command::User(order) => operate::main(&cli.scope, operate::Order::User(order)),
        Command::Update { order } => operate::main(&cli.scope, operate::Order::Update(order)),
        Command::Ledger(order) => operate::main(&cli.scope, operate::Order::Ledger(order)),
        Command::Database(order) => operate::main(&cli.scope, operate::Order::Database(order)),
        Command::TentacleClient(order) => operate::main(&cli.scope, operate::Order::TentacleClient(order)),
        Command::SupportBundle(order) => operate::main(&cli.scope, operate::Order::SupportBundle(order)),
        Command::Appliance(order) => appliance::main(&order),
        Command::Dev(order) => dev::main(&cli.scope, order),
        Command::Completion { shell } => cli::completion(shell),
    }
}
