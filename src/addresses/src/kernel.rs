//! Addresses of this machine's interfaces, by netlink.

use crate::{AddressError, wire};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use rtnetlink::{Handle, new_connection};
use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::timeout;

/// The kernel lets an address go so long after it was prolonged last.
pub(crate) const LIFETIME_S: u32 = 2;
/// Bits of a network that holds nothing else.
const ALONE: u8 = 32;
/// Netlink answers at once, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Kernel {
    handle: Handle,
}

impl Kernel {
    /// The connection lives as long as the process.
    pub(crate) fn open() -> std::result::Result<Kernel, AddressError> {
        let (connection, handle, _) =
            new_connection().map_err(|error| AddressError::Open("netlink", error))?;
        tokio::spawn(connection);
        Ok(Kernel { handle })
    }

    /// Holds it, alone in its network, for [`LIFETIME_S`] from now.
    pub(crate) async fn hold(&self, address: Ipv4Addr) -> Result<()> {
        let place = wire::place(address)?;
        let mut request = self.handle.address().add(place.index, IpAddr::V4(address), ALONE).replace();
        let mut life = CacheInfo::default();
        (life.ifa_preferred, life.ifa_valid) = (LIFETIME_S, LIFETIME_S);
        request.message_mut().attributes.push(AddressAttribute::CacheInfo(life));
        timed(request.execute()).await
    }

    /// It is gone when this returns, on whatever interface it was.
    pub(crate) async fn let_go(&self, address: Ipv4Addr) -> Result<()> {
        // Only what was added here: the same address with its network would be the machine's own.
        let all = self.handle.address().get().set_address_filter(IpAddr::V4(address));
        let all = all.set_prefix_length_filter(ALONE).execute();
        let found: Vec<AddressMessage> = timed(all.try_collect()).await?;
        for message in found {
            timed(self.handle.address().del(message).execute()).await?;
        }
        Ok(())
    }
}

async fn timed<T>(work: impl Future<Output = std::result::Result<T, rtnetlink::Error>>) -> Result<T> {
    let done = timeout(PATIENCE, work).await;
    done.map_err(|_| Error::other("the kernel does not answer"))?.map_err(|error| match error {
        rtnetlink::Error::NetlinkError(message) => Error::other(message.to_io().to_string()),
        other => Error::other(other.to_string()),
    })
}
