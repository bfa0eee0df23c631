//! Two roots on a disk: which one runs, which one an update writes, and what follows from how the last start went. PURE.
//!
//! UEFI: systemd-boot takes the newest `elpis_VERSION[+LEFT[-TRIED]].efi` and counts its tries in the name; without a
//! number it is known to work. BIOS: `iso/disk.cfg` does the same with the variables `good`, `try` and `left`.

use std::collections::BTreeMap;

/// Starts that a new version gets.
pub const TRIES: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    /// The one on this partition: `/dev/vda3`.
    #[must_use]
    pub fn of_device(device: &str) -> Option<Slot> {
        match device.chars().last()? {
            '3' => Some(Slot::A),
            '4' => Some(Slot::B),
            _ => None,
        }
    }

    #[must_use]
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// Number of its partition.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Slot::A => 3,
            Slot::B => 4,
        }
    }

    /// As boot loaders name it.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }
}

/// File of a version for UEFI: on trial, or known to work.
#[must_use]
pub fn entry_name(version: &str, on_trial: bool) -> String {
    if on_trial { format!("elpis_{version}+{TRIES}.efi") } else { format!("elpis_{version}.efi") }
}

/// Version and tries that are left, `None` = known to work.
fn entry(name: &str) -> Option<(&str, Option<u32>)> {
    let stem = name.strip_prefix("elpis_")?.strip_suffix(".efi")?;
    let Some((version, count)) = stem.split_once('+') else { return Some((stem, None)) };
    let left = count.split('-').next()?.parse().ok()?;
    Some((version, Some(left)))
}

/// What is to be done with the files for UEFI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Rename { from: String, to: String },
    Remove(String),
}

/// What a start means for the boot loaders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acts: Vec<Act>,
    /// GRUB's variables from now on; `None` = as they are.
    pub grub: Option<BTreeMap<String, String>>,
    /// A version, or the other slot, that did not work: this one was started in its place.
    pub fell_back: Option<String>,
}

/// Whether the version that runs is on trial: when it does not work, the machine has to start again.
#[must_use]
pub fn on_trial(entries: &[String], grub: &BTreeMap<String, String>, version: &str, slot: Slot) -> bool {
    let counted = |name: &String| entry(name).is_some_and(|(of, left)| of == version && left.is_some());
    entries.iter().any(counted) || grub.get("try").is_some_and(|tried| tried == slot.letter())
}

/// The version that runs in this slot works: what follows.
#[must_use]
pub fn works(entries: &[String], grub: &BTreeMap<String, String>, version: &str, slot: Slot) -> Verdict {
    let mut verdict = Verdict::default();
    for name in entries {
        match entry(name) {
            Some((of, Some(_))) if of == version => {
                verdict.acts.push(Act::Rename { from: name.clone(), to: entry_name(version, false) });
            }
            Some((of, Some(0))) => {
                verdict.fell_back = Some(of.to_owned());
                verdict.acts.push(Act::Remove(name.clone()));
            }
            _ => {}
        }
    }
    let tried = grub.get("try").map(String::as_str).filter(|tried| !tried.is_empty());
    let over = tried == Some(slot.letter()) || grub.get("left").is_some_and(|left| left == "0");
    // By UEFI another version fell: GRUB must not try it, either.
    if tried.is_some() && (over || verdict.fell_back.is_some()) {
        if tried != Some(slot.letter()) && verdict.fell_back.is_none() {
            let of = entries
                .iter()
                .filter_map(|name| entry(name))
                .find(|(of, left)| left.is_some() && *of != version);
            verdict.fell_back =
                Some(of.map_or_else(|| "the other version".to_owned(), |(of, _)| of.to_owned()));
            let failed =
                |name: &&String| entry(name).is_some_and(|(of, left)| left.is_some() && of != version);
            verdict.acts.extend(entries.iter().filter(failed).map(|name| Act::Remove(name.clone())));
        }
        verdict.grub = Some([("good".to_owned(), slot.letter().to_owned())].into());
    }
    verdict
}

/// Reads GRUB's file of variables.
#[must_use]
pub fn read_grub(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn grub(text: &str) -> BTreeMap<String, String> {
        read_grub(&text.replace(' ', "\n"))
    }

    #[test]
    fn a_new_version_that_works_is_kept() {
        let (entries, vars) =
            (names(&["elpis_0.1.0.efi", "elpis_0.2.0+2-1.efi"]), grub("good=a try=b left=3"));
        assert!(on_trial(&entries, &vars, "0.2.0", Slot::B));
        let verdict = works(&entries, &vars, "0.2.0", Slot::B);
        let blessed = Act::Rename { from: "elpis_0.2.0+2-1.efi".into(), to: "elpis_0.2.0.efi".into() };
        assert_eq!(verdict, Verdict { acts: vec![blessed], grub: Some(grub("good=b")), fell_back: None });
    }

    #[test]
    fn a_version_that_failed_is_not_tried_again() {
        let entries = names(&["elpis_0.1.0.efi", "elpis_0.2.0+0-3.efi"]);
        let verdict = works(&entries, &grub("good=a try=b left=3"), "0.1.0", Slot::A);
        assert_eq!(verdict.fell_back.as_deref(), Some("0.2.0"));
        assert_eq!(verdict.acts, [Act::Remove("elpis_0.2.0+0-3.efi".into())]);
        assert_eq!(verdict.grub, Some(grub("good=a")), "nor by BIOS");
        let entries = names(&["elpis_0.1.0.efi", "elpis_0.2.0+3.efi"]);
        let verdict = works(&entries, &grub("good=a try=b left=0"), "0.1.0", Slot::A);
        assert_eq!(verdict.fell_back.as_deref(), Some("0.2.0"));
        assert_eq!(verdict.acts, [Act::Remove("elpis_0.2.0+3.efi".into())]);
        assert!(!on_trial(&entries, &grub("good=a try=b left=0"), "0.1.0", Slot::A));
    }

    #[test]
    fn an_ordinary_start_and_one_before_the_trial_change_nothing() {
        for (entries, vars) in [
            (names(&["elpis_0.1.0.efi"]), grub("good=a")),
            (names(&["elpis_0.1.0.efi", "elpis_0.2.0+3.efi"]), grub("good=a try=b left=3")),
            (names(&["other.efi", "elpis_0.0.9.efi", "elpis_x+y.efi"]), grub("")),
        ] {
            assert_eq!(works(&entries, &vars, "0.1.0", Slot::A), Verdict::default(), "{entries:?}");
            assert!(!on_trial(&entries, &vars, "0.1.0", Slot::A));
        }
    }

    #[test]
    fn slots_and_names() {
        assert_eq!(Slot::of_device("/dev/nvme0n1p4"), Some(Slot::B));
        assert_eq!(Slot::of_device("/dev/loop0"), None);
        assert_eq!((Slot::A.other(), Slot::B.number(), Slot::A.letter()), (Slot::B, 4, "a"));
        assert_eq!(entry_name("0.2.0", true), "elpis_0.2.0+3.efi");
        assert_eq!(read_grub("# GRUB Environment Block\ngood=a\nleft=\n####"), grub("good=a left="));
    }
}
