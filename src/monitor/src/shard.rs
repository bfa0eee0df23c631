//! Which slice of the agents an agent belongs to.

use md5::{Digest, Md5};

/// Number of shards.
pub const SHARDS: u16 = 4096;

/// One of the 4,096 slices of agents: the first 12 bits of MD5(agent name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Shard(u16);

impl Shard {
    /// A shard by its number, if there is one.
    pub fn new(number: u16) -> Option<Shard> {
        (number < SHARDS).then_some(Shard(number))
    }

    /// Shard of an agent by its name (bytes as they stand, case-sensitive).
    pub fn of_agent(name: &str) -> Shard {
        let digest = Md5::digest(name.as_bytes());
        Shard(u16::from(digest[0]) << 4 | u16::from(digest[1]) >> 4)
    }

    /// Shard of an agent data file by its name: the prefix before the last `[._]digits.data` is either the MD5 of the
    /// agent name in 32 hex digits or the name itself. `None` when it is not the name of a data file.
    pub fn of_file(file_name: &str) -> Option<Shard> {
        let prefix = data_file_prefix(file_name)?;
        let hex = prefix.len() == 32 && prefix.bytes().all(|b| b.is_ascii_hexdigit());
        match hex {
            true => u16::from_str_radix(&prefix[..3], 16).ok().map(Shard),
            false => Some(Shard::of_agent(prefix)),
        }
    }

    /// The number, 0 to 4,095.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// The part of a data file's name that says whose it is: all before the last `.` or `_`, digits, `.data`.
pub fn data_file_prefix(file_name: &str) -> Option<&str> {
    let stem = file_name.strip_suffix(".data")?;
    let cut = stem.rfind(['.', '_'])?;
    let digits = &stem[cut + 1..];
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(&stem[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_by_hash_and_one_named_by_agent_share_the_shard() {
        // md5("testagent") = 857d089a3c60b127c0ae73d27cde535b
        let by_name = Shard::of_agent("testagent");
        assert_eq!(by_name.number(), 0x857);
        assert_eq!(Shard::of_file("857d089a3c60b127c0ae73d27cde535b.1795224001.data"), Some(by_name));
        assert_eq!(Shard::of_file("testagent_1795224001.data"), Some(by_name));
        assert_eq!(Shard::of_file("testagent.1795224001.data"), Some(by_name));
    }

    #[test]
    fn names_with_dots_keep_them_and_other_files_have_no_shard() {
        assert_eq!(data_file_prefix("web.example.org.17.data"), Some("web.example.org"));
        for name in ["x.self1700.data", "a.conf", "a..data", ".data", "a.12.data.part"] {
            assert_eq!(Shard::of_file(name), None, "{name}");
        }
    }
}
