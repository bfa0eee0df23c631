//! The Ethernet that this machine is on: its interfaces, and a socket for ARP.

use crate::arp::{self, Mac};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, MsgFlags, recv, sendto};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Error, Result};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

/// ARP, as Ethernet numbers it.
const ETHERTYPE: u16 = 0x0806;
/// Packets taken at a time: there may be a storm.
const BATCH: usize = 4_096;

/// An interface whose network holds an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) index: u32,
    mac: Mac,
    link: LinkAddr,
}

/// The interface whose own network holds this address.
pub(crate) fn place(address: Ipv4Addr) -> Result<Place> {
    let all: Vec<_> = getifaddrs()?.filter(|one| !one.flags.contains(InterfaceFlags::IFF_LOOPBACK)).collect();
    let ipv4 = |part: &Option<nix::sys::socket::SockaddrStorage>| {
        part.as_ref().and_then(|part| part.as_sockaddr_in()).map(|part| part.ip())
    };
    let holds = all.iter().find(|one| match (ipv4(&one.address), ipv4(&one.netmask)) {
        // An address that stands alone, as virtual ones do, is no network.
        (Some(own), Some(mask)) if mask != Ipv4Addr::BROADCAST => own & mask == address & mask,
        _ => false,
    });
    let none = || Error::other("no interface of this machine is in its network");
    let name = &holds.ok_or_else(none)?.interface_name;
    let of_it = all.iter().filter(|one| one.interface_name == *name);
    let link = of_it.filter_map(|one| one.address.as_ref()?.as_link_addr().copied()).next();
    let no_ethernet = || Error::other(format!("{name} is no Ethernet"));
    let link = link.ok_or_else(no_ethernet)?;
    let mac = link.addr().ok_or_else(no_ethernet)?;
    let index = u32::try_from(link.ifindex()).map_err(Error::other)?;
    Ok(Place { index, mac, link })
}

/// A socket for ARP on all interfaces.
pub(crate) struct Wire {
    socket: Socket,
}

impl Wire {
    pub(crate) fn open() -> Result<Wire> {
        // In the order of the network.
        let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(Wire { socket })
    }

    /// Who claims what, as other machines say it.
    pub(crate) fn heard(&self) -> Vec<(Ipv4Addr, Mac)> {
        let own: Vec<Mac> = match getifaddrs() {
            Ok(all) => all.filter_map(|one| one.address?.as_link_addr()?.addr()).collect(),
            Err(_) => return Vec::new(),
        };
        let mut heard = Vec::new();
        let mut frame = [0; 64];
        for _ in 0..BATCH {
            let length = match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => length,
                Err(nix::Error::EAGAIN) => break,
                // An interface went down: that is no end.
                Err(_) => continue,
            };
            heard.extend(frame.get(..length).and_then(arp::claim).filter(|(_, mac)| !own.contains(mac)));
        }
        heard
    }

    /// Asks who has it.
    pub(crate) fn ask(&self, address: Ipv4Addr) -> Result<()> {
        let place = place(address)?;
        self.send(&place, &arp::question(place.mac, address))
    }

    /// Tells everybody that it is here.
    pub(crate) fn announce(&self, address: Ipv4Addr) -> Result<()> {
        let place = place(address)?;
        for frame in arp::announcements(place.mac, address) {
            self.send(&place, &frame)?;
        }
        Ok(())
    }

    fn send(&self, place: &Place, frame: &[u8]) -> Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &place.link, MsgFlags::empty())?;
        Ok(())
    }
}
