//! The operator's commands: questions and orders to a running cluster through its local sockets.

pub(crate) mod cluster;
pub(crate) mod database;
mod lost;
pub(crate) mod monitor;
mod secret;
pub(crate) mod status;
mod tentacle;
pub(crate) mod time;
mod update;

use crate::cli::{self, Scope};
use crate::find::Cluster;
use anyhow::Result;
use std::process::ExitCode;

/// What was asked.
pub(crate) enum Order {
    Node(cli::NodeOrder),
    Cluster(cli::Cluster),
    Join(cli::Join),
    Agent(cli::Agent),
    Module(cli::Module),
    Check(cli::Check),
    Event(cli::Event),
    User(cli::User),
    Update(Option<cli::Update>),
    Ledger(cli::Ledger),
    Database(cli::Database),
    TentacleClient(cli::TentacleClient),
    SupportBundle(cli::SupportBundle),
}

/// Carries out an order; the reason of a failure goes to standard error.
pub(crate) fn main(scope: &Scope, order: Order) -> ExitCode {
    let work = || crate::run::small_runtime()?.block_on(run(scope, order));
    match work() {
        Ok(code) => code,
        Err(e) => {
            eprintln!("elpis: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(scope: &Scope, order: Order) -> Result<ExitCode> {
    match order {
        Order::Node(order) => cluster::node(&Cluster::find(scope)?, scope, order).await?,
        Order::Cluster(order) => cluster::cluster(&Cluster::find(scope)?, scope, order).await?,
        Order::Join(join) => cluster::join(&Cluster::find(scope)?, scope, join).await?,
        Order::Agent(order) => monitor::agent(&Cluster::find(scope)?, scope, order).await?,
        Order::Module(order) => monitor::module(&Cluster::find(scope)?, scope, order).await?,
        Order::Check(order) => monitor::check(&Cluster::find(scope)?, scope, order).await?,
        Order::Update(order) => update::order(&Cluster::find(scope)?, scope, order).await?,
        Order::User(order) => monitor::user(&Cluster::find(scope)?, scope, order).await?,
        Order::Event(order) => monitor::event(&Cluster::find(scope)?, scope, order).await?,
        Order::Ledger(order) => return monitor::ledger(&Cluster::find(scope)?, scope, order).await,
        Order::Database(cli::Database::Migrate(to)) => database::order(&to, scope.json).await?,
        Order::Database(cli::Database::Switchover { node }) => {
            cluster::switchover(&Cluster::find(scope)?, scope, &node).await?;
        }
        Order::Database(cli::Database::Adopt(adopt)) => {
            lost::adopt(&Cluster::find(scope)?, scope, adopt).await?;
        }
        Order::TentacleClient(order) => tentacle::run(order).await?,
        Order::SupportBundle(options) => crate::bundle::make(scope, &options).await?,
    }
    Ok(ExitCode::SUCCESS)
}
