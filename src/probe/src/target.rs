//! From a target's name to its address.

use crate::Failure;
use std::{net::IpAddr, time::Duration};
use tokio::sync::Semaphore;

/// Looks names up with the system's resolver; addresses pass as they are.
pub(crate) struct Resolver {
    /// The system's resolver blocks a thread for each question: a dead name server must not take them all.
    questions: Semaphore,
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver { questions: Semaphore::new(64) }
    }
}

impl Resolver {
    pub(crate) async fn resolve(&self, target: &str, limit: Duration) -> Result<IpAddr, Failure> {
        let target = target.trim();
        if target.is_empty() {
            return Err(Failure::failed(
                "no target: neither the module nor its agent has an address; set one of them",
            ));
        }
        if let Ok(address) = target.parse() {
            return Ok(address);
        }
        let look_up = async {
            let _turn = self.questions.acquire().await.ok();
            tokio::net::lookup_host((target, 0)).await.map(|mut all| all.next())
        };
        match tokio::time::timeout(limit, look_up).await {
            Ok(Ok(Some(address))) => Ok(address.ip()),
            Ok(Ok(None)) => {
                Err(Failure::failed(format!("the name {target} has no address; check the target")))
            }
            Ok(Err(error)) => Err(Failure::failed(format!(
                "the name {target} was not resolved: {error}; check the target and the node's name servers"
            ))),
            Err(_) => Err(Failure::failed(format!(
                "the name {target} was not resolved within {} s; check the node's name servers",
                limit.as_secs_f32()
            ))),
        }
    }
}
