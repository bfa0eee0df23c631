//! Two roots on a disk: which one runs, which one an update writes, and what follows from how the last start went. PURE.
//!
//! UEFI: systemd-boot takes the newest `elpis_VERSION[+LEFT[-TRIED]].efi` and counts its tries in the name; without a
//! number it is known to work. One with no tries left comes last: so stands a version that works, and that a person has
//! put behind an older one; nobody has tried it then. BIOS: `iso/disk.cfg` does the same with the variables `good`, `try`
//! and `left`.

use elpis_cluster::update::is_newer;
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

/// What a file's name says of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Works,
    /// It works, and comes after the other one.
    Behind,
    /// So many tries are left.
    OnTrial(u32),
}

fn entry(name: &str) -> Option<(&str, Standing)> {
    let stem = name.strip_prefix("elpis_")?.strip_suffix(".efi")?;
    let Some((version, count)) = stem.split_once('+') else { return Some((stem, Standing::Works)) };
    let (left, tried) = count.split_once('-').unwrap_or((count, "0"));
    let (left, tried): (u32, u32) = (left.parse().ok()?, tried.parse().ok()?);
    // A trial ends after all of its tries; what is started in the place of another one is counted, too.
    let standing = if left == 0 && tried < TRIES { Standing::Behind } else { Standing::OnTrial(left) };
    Some((version, standing))
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
    let counted = |name: &String| matches!(entry(name), Some((of, Standing::OnTrial(_))) if of == version);
    entries.iter().any(counted) || grub.get("try").is_some_and(|tried| tried == slot.letter())
}

/// The version that runs in this slot works: what follows.
#[must_use]
pub fn works(entries: &[String], grub: &BTreeMap<String, String>, version: &str, slot: Slot) -> Verdict {
    let mut verdict = Verdict::default();
    for name in entries {
        match entry(name) {
            Some((of, Standing::OnTrial(_) | Standing::Behind)) if of == version => {
                verdict.acts.push(Act::Rename { from: name.clone(), to: entry_name(version, false) });
            }
            Some((of, Standing::OnTrial(0))) => {
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
            let failed =
                |name: &&String| matches!(entry(name), Some((of, Standing::OnTrial(_))) if of != version);
            let of = entries.iter().find(failed).and_then(|name| entry(name));
            verdict.fell_back =
                Some(of.map_or_else(|| "the other version".to_owned(), |(of, _)| of.to_owned()));
            verdict.acts.extend(entries.iter().filter(failed).map(|name| Act::Remove(name.clone())));
        }
        verdict.grub = Some(grub_of(slot, None));
    }
    verdict
}

/// The way to the version in the other slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What starts next.
    pub version: String,
    /// Its file for UEFI, before the acts.
    pub file: String,
    /// First of all: a start by BIOS goes by these.
    pub grub: BTreeMap<String, String>,
    /// In this order: whenever the power fails, one that works is started.
    pub acts: Vec<Act>,
}

/// A person wants the version that ran before `version`, which runs in this slot. It is on trial like a new one.
///
/// # Errors
/// There is none that has worked; in words.
pub fn turn_to_other(entries: &[String], version: &str, slot: Slot) -> Result<Turn, String> {
    let own = entry_name(version, false);
    if !entries.contains(&own) {
        return Err(format!(
            "version {version} has not shown yet that it works, or another one is to be started: restart first (r)"
        ));
    }
    let mut others =
        entries.iter().filter_map(|name| Some((name, entry(name)?))).filter(|(_, (of, _))| *of != version);
    let Some((file, (of, standing))) = others.next() else {
        return Err("there is no other version on this disk: an update brings one (u)".to_owned());
    };
    if let Standing::OnTrial(_) = standing {
        return Err(format!("version {of} is to be started already: restart (r)"));
    }
    let mut acts = Vec::new();
    if is_newer(version, of) {
        acts.push(Act::Rename { from: own, to: format!("elpis_{version}+0.efi") });
    }
    acts.push(Act::Rename { from: file.clone(), to: entry_name(of, true) });
    let grub = grub_of(slot, Some(slot.other()));
    Ok(Turn { version: of.to_owned(), file: file.clone(), grub, acts })
}

/// GRUB's variables: this slot is known to work, another one is tried before it.
#[must_use]
pub fn grub_of(good: Slot, tried: Option<Slot>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([("good".to_owned(), good.letter().to_owned())]);
    if let Some(tried) = tried {
        variables.insert("try".to_owned(), tried.letter().to_owned());
        variables.insert("left".to_owned(), TRIES.to_string());
    }
    variables
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
    fn a_person_goes_back_and_it_stays_so() {
        let there = names(&["elpis_0.1.0.efi", "elpis_0.1.0.1.efi"]);
        let rename = |from: &str, to: &str| Act::Rename { from: from.into(), to: to.into() };
        let turn = turn_to_other(&there, "0.1.0.1", Slot::B).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((turn.version.as_str(), turn.file.as_str()), ("0.1.0", "elpis_0.1.0.efi"));
        assert_eq!(turn.grub, grub("good=b try=a left=3"));
        let behind = rename("elpis_0.1.0.1.efi", "elpis_0.1.0.1+0.efi");
        assert_eq!(turn.acts, [behind, rename("elpis_0.1.0.efi", "elpis_0.1.0+3.efi")]);

        // It works: kept, and the newer one stays behind it.
        for (entries, vars) in [
            (names(&["elpis_0.1.0+2-1.efi", "elpis_0.1.0.1+0.efi"]), grub("good=b try=a left=3")),
            (names(&["elpis_0.1.0+3.efi", "elpis_0.1.0.1+0.efi"]), grub("good=b try=a left=2")),
        ] {
            assert!(on_trial(&entries, &vars, "0.1.0", Slot::A));
            let verdict = works(&entries, &vars, "0.1.0", Slot::A);
            let kept = rename(&entries[0], "elpis_0.1.0.efi");
            assert_eq!(verdict, Verdict { acts: vec![kept], grub: Some(grub("good=a")), fell_back: None });
        }
        let after = names(&["elpis_0.1.0.efi", "elpis_0.1.0.1+0.efi"]);
        assert_eq!(works(&after, &grub("good=a"), "0.1.0", Slot::A), Verdict::default());
        assert!(!on_trial(&after, &grub("good=a"), "0.1.0", Slot::A));
        // And forward again, as after an update.
        let turn = turn_to_other(&after, "0.1.0", Slot::A).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(turn.acts, [rename("elpis_0.1.0.1+0.efi", "elpis_0.1.0.1+3.efi")]);
    }

    #[test]
    fn one_that_a_person_went_back_to_in_vain_is_left() {
        for (entries, vars) in [
            // Started in its place, as the last one: it is counted.
            (names(&["elpis_0.1.0+0-3.efi", "elpis_0.2.0+0-1.efi"]), grub("good=b try=a left=3")),
            (names(&["elpis_0.1.0+3.efi", "elpis_0.2.0+0.efi"]), grub("good=b try=a left=0")),
        ] {
            assert!(!on_trial(&entries, &vars, "0.2.0", Slot::B));
            let verdict = works(&entries, &vars, "0.2.0", Slot::B);
            assert_eq!(verdict.fell_back.as_deref(), Some("0.1.0"));
            let kept = Act::Rename { from: entries[1].clone(), to: "elpis_0.2.0.efi".into() };
            let mut acts = verdict.acts.clone();
            acts.sort_by_key(|act| matches!(act, Act::Remove(_)));
            assert_eq!(acts, [kept, Act::Remove(entries[0].clone())]);
            assert_eq!(verdict.grub, Some(grub("good=b")));
        }
    }

    #[test]
    fn there_is_not_always_one_to_go_back_to() {
        for (list, why) in [
            (&["elpis_0.2.0.efi"][..], "no other version"),
            (&["elpis_0.2.0+2-1.efi", "elpis_0.1.0.efi"], "not shown yet"),
            (&["elpis_0.2.0+0.efi", "elpis_0.1.0+3.efi"], "restart first"),
            (&["elpis_0.2.0.efi", "elpis_0.3.0+3.efi"], "to be started already"),
            (&["elpis_0.2.0.efi", "new", "elpis_x+y.efi"], "no other version"),
        ] {
            let turn = turn_to_other(&names(list), "0.2.0", Slot::B);
            assert!(turn.as_ref().is_err_and(|text| text.contains(why)), "{list:?}: {turn:?}");
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
