//! Finds files in an ISO 9660 image without mounting it: whoever brings a medium or an image file could else feed the
//! kernel a file system that was made to break it. Names are those of Rock Ridge, which `iso/medium` writes.

use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};

const SECTOR: u64 = 2_048;
/// The volume's own description.
const VOLUME_AT: u64 = 16 * SECTOR;
/// Where it describes the top folder.
const ROOT: usize = 156;
/// Largest folder that is read; ours have a few files.
const LARGEST_FOLDER: u64 = 1 << 20;
/// Where a record's name begins.
const NAME: usize = 33;

/// Where a file lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub at: u64,
    pub bytes: u64,
}

/// The file of this path, as `live/root.img`.
///
/// # Errors
/// It is no such image, has no such file, or one in several pieces; or it cannot be read.
pub fn find(image: &mut (impl Read + Seek), path: &str) -> Result<Extent> {
    let volume = read(image, Extent { at: VOLUME_AT, bytes: SECTOR })?;
    if volume.first() != Some(&1) || volume.get(1..6) != Some(b"CD001") {
        return Err(Error::new(ErrorKind::InvalidData, "it is no ISO 9660 image"));
    }
    let odd = || Error::new(ErrorKind::InvalidData, "the image's folders cannot be read");
    let mut found = extent(volume.get(ROOT..).ok_or_else(odd)?).ok_or_else(odd)?;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        if found.bytes > LARGEST_FOLDER {
            return Err(odd());
        }
        let folder = read(image, found)?;
        let record = records(&folder).find(|record| name_of(record).as_deref() == Some(name.as_bytes()));
        let record = record.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("it has no {path}")))?;
        // A folder where one is looked for, and no file in several pieces.
        let (flags, wanted) =
            (record.get(25).copied().unwrap_or(0), if names.peek().is_some() { 2 } else { 0 });
        if flags & 0x82 != wanted {
            return Err(Error::new(ErrorKind::InvalidData, format!("{path} is of another kind")));
        }
        found = extent(record).ok_or_else(odd)?;
    }
    Ok(found)
}

fn read(image: &mut (impl Read + Seek), extent: Extent) -> Result<Vec<u8>> {
    image.seek(SeekFrom::Start(extent.at))?;
    let mut bytes = vec![0; usize::try_from(extent.bytes).map_err(Error::other)?];
    image.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Of a folder: none crosses the end of a sector, and the rest of that is zero.
fn records(folder: &[u8]) -> impl Iterator<Item = &[u8]> {
    #[allow(clippy::cast_possible_truncation)] // 2,048
    folder.chunks(SECTOR as usize).flat_map(|sector| {
        let mut rest = sector;
        std::iter::from_fn(move || {
            let length = usize::from(*rest.first()?);
            let (record, after) = rest.split_at_checked(length).filter(|_| length > NAME)?;
            rest = after;
            Some(record)
        })
    })
}

fn extent(record: &[u8]) -> Option<Extent> {
    let number = |at: usize| Some(u32::from_le_bytes(record.get(at..at + 4)?.try_into().ok()?));
    Some(Extent { at: u64::from(number(2)?) * SECTOR, bytes: u64::from(number(10)?) })
}

/// By Rock Ridge: the pieces `NM` behind the short name.
fn name_of(record: &[u8]) -> Option<Vec<u8>> {
    let short = usize::from(*record.get(32)?);
    let mut rest = record.get(NAME + short + usize::from(short.is_multiple_of(2))..)?;
    let mut name = Vec::new();
    while let Some((head, _)) = rest.split_at_checked(4) {
        let length = usize::from(head[2]);
        let Some((entry, after)) = rest.split_at_checked(length).filter(|_| length >= 4) else { break };
        if head.starts_with(b"NM") {
            name.extend_from_slice(entry.get(5..)?);
        }
        rest = after;
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn record(name: &str, flags: u8, sector: u32, bytes: u32) -> Vec<u8> {
        let mut record = vec![0; NAME];
        record[2..6].copy_from_slice(&sector.to_le_bytes());
        record[10..14].copy_from_slice(&bytes.to_le_bytes());
        (record[25], record[32]) = (flags, 4);
        record.extend_from_slice(b"X.;1\0");
        record.extend_from_slice(b"PX\x08\x01\0\0\0\0");
        record.extend_from_slice(&[b'N', b'M', 5 + u8::try_from(name.len()).unwrap(), 1, 0]);
        record.extend_from_slice(name.as_bytes());
        record[0] = u8::try_from(record.len()).unwrap();
        record
    }

    fn image(folder: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 20 * 2048];
        let volume = 16 * 2048;
        image[volume..volume + 6].copy_from_slice(b"\x01CD001");
        image[volume + ROOT..volume + ROOT + 34].copy_from_slice(&{
            let mut root = vec![0; 34];
            root[2..6].copy_from_slice(&17u32.to_le_bytes());
            root[10..14].copy_from_slice(&2048u32.to_le_bytes());
            root
        });
        let top = [record("boot", 2, 18, 2048), record("live", 2, 19, 2048)].concat();
        image[17 * 2048..17 * 2048 + top.len()].copy_from_slice(&top);
        image[19 * 2048..19 * 2048 + folder.len()].copy_from_slice(folder);
        image
    }

    #[test]
    fn files_are_found_by_their_long_names() {
        let folder = [record("manifest", 0, 30, 7), record("manifest.sig", 0, 31, 64)].concat();
        let mut image = Cursor::new(image(&folder));
        assert_eq!(find(&mut image, "live/manifest.sig").unwrap(), Extent { at: 31 * 2048, bytes: 64 });
        assert_eq!(find(&mut image, "live/other").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(find(&mut image, "live").unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(find(&mut image, "live/manifest/x").unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn hostile_bytes_are_refused_and_nothing_panics() {
        let good = image(&record("root.img", 0, 30, 7));
        for at in (0..good.len()).filter(|at| good[*at] != 0) {
            for byte in [0, 1, 33, 255] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                let _ = find(&mut Cursor::new(bytes), "live/root.img");
            }
        }
        for length in [0, 100, 16 * 2048 + 200, 17 * 2048 + 10] {
            assert!(find(&mut Cursor::new(&good[..length]), "live/root.img").is_err());
        }
    }
}
