//! ARP for IPv4 over Ethernet, as far as an address that moves needs it. PURE. RFC 826, RFC 5227.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

const LENGTH: usize = 42;
const ALL: Mac = [0xFF; 6];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Who has this address? Asked in nobody's name, so that nobody's table changes.
pub(crate) fn question(mac: Mac, address: Ipv4Addr) -> [u8; LENGTH] {
    frame(REQUEST, mac, Ipv4Addr::UNSPECIFIED, [0; 6], address)
}

/// "I have this address", both ways that tables learn it.
pub(crate) fn announcements(mac: Mac, address: Ipv4Addr) -> [[u8; LENGTH]; 2] {
    [frame(REQUEST, mac, address, [0; 6], address), frame(REPLY, mac, address, ALL, address)]
}

fn frame(operation: u8, mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&ALL);
    frame[6..12].copy_from_slice(&mac);
    // Ethertype ARP; Ethernet and IPv4, with the lengths of their addresses.
    frame[12..21].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0]);
    frame[21] = operation;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[32..38].copy_from_slice(&target_mac);
    frame[38..].copy_from_slice(&target.octets());
    frame
}

/// Who says, in any ARP packet, to have which address.
pub(crate) fn claim(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let frame: &[u8; LENGTH] = frame.get(..LENGTH)?.try_into().ok()?;
    let (mac, [a, b, c, d]): (Mac, [u8; 4]) =
        (frame[22..28].try_into().ok()?, frame[28..32].try_into().ok()?);
    let is_arp = frame[12..21] == [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0];
    let address = Ipv4Addr::new(a, b, c, d);
    (is_arp && !address.is_unspecified()).then_some((address, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

    #[test]
    fn announcements_claim_and_questions_do_not() {
        for frame in announcements(MAC, ADDRESS) {
            assert_eq!(claim(&frame), Some((ADDRESS, MAC)));
        }
        let question = question(MAC, ADDRESS);
        assert_eq!(claim(&question), None);
        assert_eq!(question[38..], ADDRESS.octets());
        let mut other = announcements(MAC, ADDRESS)[0];
        other[13] = 0;
        assert_eq!(claim(&other), None, "no ARP");
        assert_eq!(claim(&other[..41]), None, "cut off");
        assert_eq!(claim(&[]), None);
    }
}
