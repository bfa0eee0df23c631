//! Disks: which may be installed on, how one is cut up, and what goes into its boot sectors. PURE.

use serde::Deserialize;

const MIB: u64 = 1_048_576;
/// Bytes of a sector, as partition tables count.
pub const SECTOR: u64 = 512;
/// The smallest disk: two roots of 1 GiB, 2 GiB of state, and room for a database.
pub const SMALLEST_BYTES: u64 = 11 * 1_000_000_000;
/// Longest list that the screen has room for.
const MOST: usize = 8;

/// A part of an installed disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Counted from 1: `iso/init` and `iso/disk.cfg` know them, too.
    pub number: u32,
    pub label: &'static str,
    /// `None`: all that is left.
    pub mib: Option<u64>,
    /// Type as sgdisk names it.
    pub kind: &'static str,
}

/// An installed disk. Two roots: an update writes the one that does not run. The state's own part holds identity, keys
/// and the Raft log, whose writes must not wait behind the database's.
pub const LAYOUT: [Part; 6] = [
    Part { number: 1, label: "elpis-bios", mib: Some(1), kind: "ef02" },
    Part { number: 2, label: "elpis-boot", mib: Some(512), kind: "ef00" },
    Part { number: 3, label: "elpis-root-a", mib: Some(1_024), kind: "8300" },
    Part { number: 4, label: "elpis-root-b", mib: Some(1_024), kind: "8300" },
    Part { number: 5, label: "elpis-state", mib: Some(2_048), kind: "8300" },
    Part { number: 6, label: "elpis-data", mib: None, kind: "8300" },
];

/// PURE: what sgdisk is told, for the whole layout.
#[must_use]
pub fn sgdisk_arguments() -> Vec<String> {
    let mut arguments = vec!["--clear".to_owned()];
    for part in LAYOUT {
        let end = part.mib.map_or_else(|| "0".to_owned(), |mib| format!("+{mib}M"));
        arguments.push(format!("--new={}:0:{end}", part.number));
        arguments.push(format!("--typecode={}:{}", part.number, part.kind));
        arguments.push(format!("--change-name={}:{}", part.number, part.label));
    }
    arguments
}

/// PURE: the device of a part: `/dev/vda3`, `/dev/nvme0n1p3`.
#[must_use]
pub fn part_device(disk: &str, number: u32) -> String {
    let between = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("/dev/{disk}{between}{number}")
}

/// A disk of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// As the kernel names it: `vda`.
    pub name: String,
    pub bytes: u64,
    pub model: String,
    /// What is on it, in words; `None` = nothing.
    pub holds: Option<String>,
    /// Elpis is installed on it.
    pub elpis: bool,
    /// Why nothing can be installed on it.
    pub unfit: Option<String>,
}

impl Disk {
    /// One line for the person who chooses.
    #[must_use]
    pub fn line(&self) -> String {
        let gigabytes = self.bytes / 1_000_000_000;
        let holds = self.holds.as_ref().map_or_else(|| "empty".to_owned(), |what| format!("holds {what}"));
        let tail = self.unfit.as_ref().unwrap_or(&holds);
        format!("{:<9} {gigabytes:>6} GB  {:<24} {tail}", self.name, self.model)
    }
}

#[derive(Deserialize)]
struct Listed {
    blockdevices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    ro: bool,
    model: Option<String>,
    pttype: Option<String>,
    fstype: Option<String>,
    label: Option<String>,
    partlabel: Option<String>,
    #[serde(default)]
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Device>,
}

/// What `lsblk` is asked for; see [`disks`].
pub const LSBLK: [&str; 4] =
    ["--json", "--bytes", "--output", "NAME,TYPE,SIZE,RO,MODEL,PTTYPE,FSTYPE,LABEL,PARTLABEL,MOUNTPOINTS"];

/// PURE: the machine's disks by what `lsblk` lists, the medium that it started from left out.
///
/// # Errors
/// It is not what lsblk writes.
pub fn disks(listed: &str, medium: Option<&str>) -> Result<Vec<Disk>, serde_json::Error> {
    let listed: Listed = serde_json::from_str(listed)?;
    let fits =
        |device: &Device| device.kind == "disk" && device.size > 0 && Some(device.name.as_str()) != medium;
    let disks = listed.blockdevices.iter().filter(|device| fits(device)).take(MOST);
    Ok(disks.map(disk).collect())
}

fn disk(device: &Device) -> Disk {
    let mut holds: Vec<String> = Vec::new();
    let elpis = device.children.iter().any(|part| part.partlabel.as_deref() == Some("elpis-state"));
    if elpis {
        holds.push("Elpis".to_owned());
    } else if device.fstype.is_some() || device.pttype.is_some() || !device.children.is_empty() {
        let parts = device.children.len();
        let own = device.fstype.iter().cloned();
        let names = device.children.iter().filter_map(|part| part.label.clone().or(part.fstype.clone()));
        holds.extend(own.chain(names).take(3));
        holds.push(format!("{parts} partitions"));
    }
    let used = in_use(device);
    let unfit = if device.ro {
        Some("is write-protected".to_owned())
    } else if device.size < SMALLEST_BYTES {
        Some(format!("is too small: {} GB are needed", SMALLEST_BYTES / 1_000_000_000))
    } else {
        used.map(|point| format!("is in use: {point}"))
    };
    Disk {
        name: device.name.clone(),
        bytes: device.size,
        model: device.model.as_deref().unwrap_or_default().trim().to_owned(),
        holds: (!holds.is_empty()).then(|| holds.join(", ")),
        elpis,
        unfit,
    }
}

/// Where it is mounted, or what stands on it.
fn in_use(device: &Device) -> Option<String> {
    let own = device.mountpoints.iter().flatten().next().cloned();
    let layered =
        (device.kind == "part").then(|| device.children.first().map(|upper| upper.name.clone())).flatten();
    own.or(layered).or_else(|| device.children.iter().find_map(in_use))
}

/// A person's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub disk: String,
    /// What it holds may go.
    pub erase: bool,
}

/// PURE: `DISK`, or `DISK erase`.
///
/// # Errors
/// What is missing, in words.
pub fn choice_of(line: &str) -> Result<Choice, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [disk] => Ok(Choice { disk: disk.to_owned(), erase: false }),
        [disk, "erase"] => Ok(Choice { disk: disk.to_owned(), erase: true }),
        _ => Err("the name of a disk is needed, and `erase` behind it when it holds something".to_owned()),
    }
}

/// PURE: whether this may be installed on. `auto` is the only empty disk that fits.
///
/// # Errors
/// Why not, and what to do.
pub fn choose<'a>(disks: &'a [Disk], choice: &Choice) -> Result<&'a Disk, String> {
    let chosen = if choice.disk == "auto" {
        let mut empty = disks.iter().filter(|disk| disk.unfit.is_none() && disk.holds.is_none());
        match (empty.next(), empty.next()) {
            (Some(only), None) => only,
            (None, _) => return Err("there is no empty disk that is large enough: name one".to_owned()),
            (Some(one), Some(other)) => {
                return Err(format!("{} and {} are both empty: name one", one.name, other.name));
            }
        }
    } else {
        disks
            .iter()
            .find(|disk| disk.name == choice.disk)
            .ok_or_else(|| format!("there is no disk {}", choice.disk))?
    };
    let name = &chosen.name;
    if let Some(why) = &chosen.unfit {
        return Err(format!("{name} {why}"));
    }
    // Which of two a machine starts from is not told apart.
    if let Some(other) = disks.iter().find(|disk| disk.elpis && disk.name != *name) {
        return Err(format!("{} holds Elpis already: take it out, or install on that one", other.name));
    }
    if let Some(what) = &chosen.holds
        && !choice.erase
    {
        return Err(format!("{name} holds {what}: type `{name} erase` to lose that"));
    }
    Ok(chosen)
}

/// PURE: where partition 2 of a hybrid ISO lies, `(offset, length)` in bytes, by its first sector: the one that UEFI
/// starts from.
#[must_use]
pub fn medium_boot_part(sector: &[u8]) -> Option<(u64, u64)> {
    const ENTRY: usize = 446 + 16;
    if sector.get(510..512) != Some(&[0x55, 0xaa]) || sector.get(ENTRY + 4) != Some(&0xef) {
        return None;
    }
    let number = |at: usize| sector.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let (start, sectors) = (number(ENTRY + 8)?, number(ENTRY + 12)?);
    (start > 0 && sectors > 0).then(|| (u64::from(start) * SECTOR, u64::from(sectors) * SECTOR))
}

/// PURE: GRUB's first sector, to be written over the disk's own, whose partition table stays. `core`: sector at which
/// GRUB's core begins.
#[must_use]
pub fn boot_sector(grub: &[u8], disk: &[u8], core: u64) -> Option<Vec<u8>> {
    const CODE: usize = 440;
    const CORE_AT: usize = 0x5c;
    let mut sector = disk.get(..512)?.to_vec();
    sector[..CODE].copy_from_slice(grub.get(..CODE)?);
    sector[CORE_AT..CORE_AT + 8].copy_from_slice(&core.to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    Some(sector)
}

/// PURE: GRUB's core, told where its second sector lies; it must fit its part.
#[must_use]
pub fn boot_core(grub: &[u8], core: u64) -> Option<Vec<u8>> {
    const REST_AT: usize = 0x1f4;
    let mut bytes = grub.to_vec();
    if bytes.len() < 1_024 || bytes.len() as u64 > MIB {
        return None;
    }
    bytes[REST_AT..REST_AT + 8].copy_from_slice(&(core + 1).to_le_bytes());
    Some(bytes)
}

/// Size of GRUB's file of variables.
const GRUB_VARIABLES: usize = 1_024;

/// PURE: GRUB's file of variables. Names and values are ours and short.
#[must_use]
pub fn grub_variables(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut text = "# GRUB Environment Block\n".to_owned();
    for (name, value) in pairs {
        text.push_str(&format!("{name}={value}\n"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(GRUB_VARIABLES, b'#');
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LISTED: &str = r#"{"blockdevices": [
      {"name":"loop0","type":"loop","size":111,"ro":true,"model":null,"pttype":null,"fstype":"squashfs","label":null,
       "partlabel":null,"mountpoints":[null],"children":[{"name":"root","type":"crypt","size":1,"ro":true,"model":null,
       "pttype":null,"fstype":"squashfs","label":null,"partlabel":null,"mountpoints":["/"]}]},
      {"name":"sr0","type":"rom","size":150000000,"ro":false,"model":"QEMU DVD-ROM","pttype":"PMBR","fstype":"iso9660",
       "label":"ELPIS","partlabel":null,"mountpoints":["/run/elpis-boot/medium"]},
      {"name":"sda","type":"disk","size":64000000000,"ro":false,"model":"Ultra Fit ","pttype":"gpt","fstype":"iso9660",
       "label":"ELPIS","partlabel":null,"mountpoints":[null]},
      {"name":"vda","type":"disk","size":12884901888,"ro":false,"model":null,"pttype":null,"fstype":null,"label":null,
       "partlabel":null,"mountpoints":[null]},
      {"name":"vdb","type":"disk","size":500107862016,"ro":false,"model":"DISK","pttype":"gpt","fstype":null,"label":null,
       "partlabel":null,"mountpoints":[null],"children":[
         {"name":"vdb1","type":"part","size":1,"ro":false,"model":null,"pttype":"gpt","fstype":"ntfs","label":"Windows",
          "partlabel":"Basic","mountpoints":[null]}]},
      {"name":"vdc","type":"disk","size":500107862016,"ro":false,"model":"DISK","pttype":"gpt","fstype":null,"label":null,
       "partlabel":null,"mountpoints":[null],"children":[
         {"name":"vdc1","type":"part","size":1,"ro":false,"model":null,"pttype":"gpt","fstype":"ext4","label":null,
          "partlabel":"x","mountpoints":["/mnt"]}]},
      {"name":"vdd","type":"disk","size":1000000000,"ro":false,"model":null,"pttype":null,"fstype":null,"label":null,
       "partlabel":null,"mountpoints":[null]}
    ]}"#;

    fn listed() -> Vec<Disk> {
        disks(LISTED, Some("sda")).unwrap()
    }

    fn why(disks: &[Disk], line: &str) -> String {
        match choice_of(line).and_then(|choice| choose(disks, &choice).map(|disk| disk.name.clone())) {
            Ok(name) => format!("chosen: {name}"),
            Err(why) => why,
        }
    }

    #[test]
    fn disks_are_told_apart() {
        let disks = listed();
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["vda", "vdb", "vdc", "vdd"], "no medium, no loop, no CD");
        assert!(
            disks[0].line().contains("12 GB") && disks[0].line().ends_with("empty"),
            "{}",
            disks[0].line()
        );
        assert_eq!(disks[1].holds.as_deref(), Some("Windows, 1 partitions"));
        for (line, says) in [
            ("vda", "chosen: vda"),
            ("auto", "chosen: vda"),
            ("vdb", "type `vdb erase`"),
            ("vdb erase", "chosen: vdb"),
            ("vdc erase", "in use: /mnt"),
            ("vdd", "too small: 11 GB"),
            ("vde", "no disk vde"),
            ("", "name of a disk"),
            ("vda now", "name of a disk"),
        ] {
            assert!(why(&disks, line).contains(says), "{line}: {}", why(&disks, line));
        }
    }

    #[test]
    fn auto_wants_one_empty_disk_and_a_second_elpis_is_refused() {
        let mut disks = listed();
        disks[3].unfit = None;
        assert!(why(&disks, "auto").contains("both empty"));
        disks.truncate(2);
        disks[0].holds = Some("ext4".into());
        assert!(why(&disks, "auto").contains("no empty disk"));
        disks[1].elpis = true;
        assert!(why(&disks, "vda erase").contains("vdb holds Elpis already"));
        assert_eq!(why(&disks, "vdb erase"), "chosen: vdb");
    }

    #[test]
    fn parts_have_names_and_fit_the_smallest_disk() {
        assert_eq!(
            (part_device("vda", 3), part_device("nvme0n1", 3)),
            ("/dev/vda3".into(), "/dev/nvme0n1p3".into())
        );
        let fixed: u64 = LAYOUT.iter().filter_map(|part| part.mib).sum();
        assert!(SMALLEST_BYTES > fixed * MIB + 4_000_000_000, "4 GB for a database");
        assert!(LAYOUT.iter().zip(1..).all(|(part, number)| part.number == number));
        assert_eq!(sgdisk_arguments().len(), 1 + 3 * LAYOUT.len());
    }

    #[test]
    fn boot_sectors_name_each_other_and_keep_the_table() {
        let (grub, disk) = (vec![7; 512], vec![9; 512]);
        let sector = boot_sector(&grub, &disk, 2_048).unwrap();
        assert_eq!(sector[0x5c..0x64], 2_048_u64.to_le_bytes());
        assert!(sector[440..510].iter().all(|byte| *byte == 9) && sector[0] == 7);
        let core = boot_core(&[1; 2_048], 2_048).unwrap();
        assert_eq!(core[0x1f4..0x1fc], 2_049_u64.to_le_bytes());
        for (grub, disk) in [(&grub[..100], &disk[..]), (&grub[..], &disk[..100])] {
            assert!(boot_sector(grub, disk, 1).is_none());
        }
        assert!(boot_core(&[1; 100], 1).is_none() && boot_core(&vec![1; 2_000_000], 1).is_none());
        let variables = grub_variables(&[("good", "a")]);
        assert_eq!(variables.len(), GRUB_VARIABLES);
        assert!(variables.starts_with(b"# GRUB Environment Block\ngood=a\n####"));
    }

    #[test]
    fn the_part_of_the_medium_is_found() {
        let mut sector = vec![0; 512];
        assert_eq!(medium_boot_part(&sector), None);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector[462 + 4] = 0xef;
        sector[470..474].copy_from_slice(&100_u32.to_le_bytes());
        assert_eq!(medium_boot_part(&sector), None, "no length");
        sector[474..478].copy_from_slice(&8_u32.to_le_bytes());
        assert_eq!(medium_boot_part(&sector), Some((51_200, 4_096)));
        assert_eq!(medium_boot_part(&sector[..300]), None);
    }
}
