//! Echo requests and replies as bytes; pure.

/// What a request carries and a reply must bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) id: u16,
    pub(super) sequence: u16,
    /// Told apart by it: a late answer to an earlier request with the same numbers.
    pub(super) token: u64,
}

/// Bytes of a packet of ours.
pub(super) const LENGTH: usize = 8 + 8 + 40;

/// An echo request. ICMPv6 checksums cover the addresses and are the kernel's.
pub(super) fn request(echo: Echo, v6: bool) -> [u8; LENGTH] {
    let mut packet = [0x45_u8; LENGTH];
    packet[0] = if v6 { 128 } else { 8 };
    packet[1..4].fill(0);
    packet[4..6].copy_from_slice(&echo.id.to_be_bytes());
    packet[6..8].copy_from_slice(&echo.sequence.to_be_bytes());
    packet[8..16].copy_from_slice(&echo.token.to_be_bytes());
    if !v6 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The echo reply in a received packet, if it is one. `header`: raw IPv4 sockets deliver the IP header too.
pub(super) fn reply(packet: &[u8], v6: bool, header: bool) -> Option<Echo> {
    let packet = if header && !v6 {
        let first = *packet.first()?;
        if first >> 4 != 4 {
            return None;
        }
        packet.get(usize::from(first & 0x0f) * 4..)?
    } else {
        packet
    };
    let head = packet.get(..16)?;
    let kind = if v6 { 129 } else { 0 };
    if head[0] != kind || head[1] != 0 {
        return None;
    }
    let two = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let mut token = [0; 8];
    token.copy_from_slice(&head[8..16]);
    Some(Echo { id: two(4), sequence: two(6), token: u64::from_be_bytes(token) })
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    #[allow(clippy::cast_possible_truncation)] // folded to 16 bits above
    let sum = sum as u16;
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ECHO: Echo = Echo { id: 0x1234, sequence: 7, token: 0xdead_beef };

    #[test]
    fn a_request_has_a_right_checksum_and_is_no_reply() {
        let packet = request(ECHO, false);
        assert_eq!(checksum(&packet), 0);
        assert_eq!(reply(&packet, false, false), None);
    }

    #[test]
    fn a_reply_is_read_with_and_without_ip_header() {
        let mut packet = request(ECHO, false).to_vec();
        packet[0] = 0;
        assert_eq!(reply(&packet, false, false), Some(ECHO));
        let mut with_header = vec![0_u8; 24];
        with_header[0] = 0x46; // 24 bytes: options are skipped
        with_header.extend_from_slice(&packet);
        assert_eq!(reply(&with_header, false, true), Some(ECHO));
        packet[0] = 129;
        assert_eq!(reply(&packet, true, true), Some(ECHO));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), v6: bool, header: bool) {
            let _ = reply(&bytes, v6, header);
        }
    }
}
