//! `elpis tentacle-client`: send and fetch files.

use super::secret;
use crate::cli::{TentacleClient, TentacleTarget};
use crate::output;
use anyhow::Result;
use elpis_tentacle::client::{self, ClientConfig, Tls};
use std::time::Duration;

const IDLE: Duration = Duration::from_secs(30);
/// Largest file fetched.
const LARGEST: u64 = 64 << 20;

pub(super) async fn run(order: TentacleClient) -> Result<()> {
    match order {
        TentacleClient::Send { server, files } => {
            client::send(&config(server)?, &files).await?;
            output::line(&format!("{} sent", files.len()));
        }
        TentacleClient::Fetch { server, names, into } => {
            client::fetch(&config(server)?, &names, &into).await?;
            output::line(&format!("{} fetched", names.len()));
        }
    }
    Ok(())
}

fn config(target: TentacleTarget) -> Result<ClientConfig> {
    let tls = match (target.ca, target.tls) {
        (Some(ca), _) => Tls::Verified(ca),
        (None, true) => Tls::Unverified,
        (None, false) => Tls::Off,
    };
    let password = target.password_file.map(|file| secret::read(Some(&file))).transpose()?;
    Ok(ClientConfig { address: target.server, tls, password, idle: IDLE, size: LARGEST })
}
