use super::*;

fn intake(limits: Limits) -> (tempfile::TempDir, Intake) {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), limits).unwrap();
    let intake = Intake::open(spool, 7).unwrap();
    (folder, intake)
}

#[test]
fn entries_come_back_in_acceptance_order_with_what_was_sent() {
    let (_folder, intake) = intake(Limits::default());
    for (name, now) in [("a.1.data", 2_000), ("b.1.data", 1_000), ("c.1.data", 3_000)] {
        intake.accept(name, name.as_bytes(), 0x857, now).unwrap();
    }
    let spool = intake.spool();
    let read: Vec<Stored> =
        spool.entries(0x857).unwrap().iter().map(|entry| spool.read(entry).unwrap()).collect();
    let seen: Vec<(&str, i64)> = read.iter().map(|s| (s.header.name.as_str(), s.header.receive_ms)).collect();
    // The clock that went back does not put b before a.
    assert_eq!(seen, [("a.1.data", 2_000), ("b.1.data", 2_000), ("c.1.data", 3_000)]);
    assert!(read.iter().all(|s| s.content == s.header.name.as_bytes()));
    assert!(spool.root().join("work/857").is_dir());
    assert_eq!(spool.entries(1).unwrap(), []);
}

#[test]
fn same_name_same_content_is_known_and_other_content_is_refused_until_it_is_done() {
    let (_folder, intake) = intake(Limits::default());
    let first = intake.accept("a.1.data", b"one", 1, 10).unwrap();
    assert_eq!(intake.accept("a.1.data", b"one", 1, 20).unwrap(), Accepted::Known(first.header().clone()));
    assert!(matches!(intake.accept("a.1.data", b"two", 1, 20), Err(SpoolError::Exists(_))));
    let spool = intake.spool();
    spool.done(&spool.entries(1).unwrap()[0]).unwrap();
    assert!(matches!(intake.accept("a.1.data", b"two", 1, 30), Ok(Accepted::New(_))));
    assert!(spool.is_done(1, first.header().id()));
    assert_eq!(spool.handed_done().unwrap().len(), 1);
}

#[test]
fn order_and_index_survive_a_restart() {
    let (folder, intake) = intake(Limits::default());
    let first = intake.accept("a.1.data", b"one", 1, 10).unwrap().header().clone();
    drop(intake);
    fs::write(folder.path().join("tmp/half"), b"half").unwrap();
    let again = Intake::open(Spool::open(folder.path(), Limits::default()).unwrap(), 7).unwrap();
    assert_eq!(again.accept("a.1.data", b"one", 1, 5).unwrap(), Accepted::Known(first.clone()));
    let second = again.accept("b.1.data", b"x", 1, 5).unwrap().header().clone();
    assert!(second.id() > first.id() && second.sequence > first.sequence);
    assert_eq!(again.waiting(), (2, 4));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn limits_hold_and_room_comes_back() {
    let (_folder, intake) = intake(Limits { bytes: 4, entries: 2, ..Limits::default() });
    assert!(matches!(intake.accept("a", b"12345", 1, 1), Err(SpoolError::Full(_))));
    intake.accept("a", b"12", 1, 1).unwrap();
    intake.accept("b", b"1", 1, 1).unwrap();
    assert!(matches!(intake.accept("c", b"1", 1, 1), Err(SpoolError::Full(_))));
    let spool = intake.spool();
    spool.done(&spool.entries(1).unwrap()[0]).unwrap();
    for entry in spool.handed_done().unwrap() {
        intake.delete(&entry).unwrap();
    }
    assert_eq!(intake.waiting(), (1, 1));
    intake.accept("c", b"1", 1, 1).unwrap();
}

#[test]
fn a_bad_file_is_kept_with_its_reason_and_the_oldest_go() {
    let (folder, intake) = intake(Limits { bad_files: 2, ..Limits::default() });
    let spool = intake.spool();
    for name in ["a", "b", "c"] {
        intake.accept(name, b"x", 1, 1).unwrap();
        spool.bad(&spool.entries(1).unwrap()[0], r#"{"why":"no"}"#).unwrap();
    }
    assert_eq!(spool.entries(1).unwrap(), []);
    assert_eq!(fs::read_dir(folder.path().join("bad")).unwrap().count(), 4);
    assert_eq!(fs::read(folder.path().join("bad/c.reason")).unwrap(), br#"{"why":"no"}"#);
}

#[test]
fn damage_is_seen_and_a_forwarded_entry_is_not_forwarded_again() {
    let (_folder, intake) = intake(Limits::default());
    let spool = intake.spool();
    let header = intake.accept("a.1.data", b"abc", 1, 1).unwrap().header().clone();
    let entry = spool.entries(1).unwrap().remove(0);
    spool.forward(&entry, 2).unwrap();
    assert_eq!((spool.handed_forward().unwrap()[0].shard, spool.entries(1).unwrap().len()), (2, 0));
    let moved = spool.put(&Header { shard: 2, forwarded: true, ..header }, b"abc").unwrap();
    assert!(matches!(spool.forward(&moved, 3), Err(SpoolError::ForwardedTwice(_))));
    fs::write(moved.path(), b"{}\n").unwrap();
    assert!(matches!(spool.read(&moved), Err(SpoolError::Damaged { .. })));
    spool.bad(&moved, "{}").unwrap();
}

#[test]
fn readiness_names_one_epoch_and_ends_with_the_tentacle_server() {
    let (folder, intake) = intake(Limits::default());
    let spool = intake.spool();
    assert!(spool.readiness().is_empty());
    let marks = [(5, 9), (0xfff, u64::MAX)].into();
    spool.set_readiness(&marks).unwrap();
    assert_eq!(spool.readiness(), marks);
    let spool = Spool::open(folder.path(), Limits::default()).unwrap();
    assert_eq!(spool.readiness(), marks);
    fs::write(folder.path().join("readiness"), "2\n005 9\n").unwrap();
    assert!(spool.readiness().is_empty(), "of a version that is not known");
    fs::write(folder.path().join("readiness"), "1\n005 9\nxyz\n006").unwrap();
    assert_eq!(spool.readiness(), [(5, 9)].into());
    Intake::open(spool.clone(), 7).unwrap();
    assert!(spool.readiness().is_empty());
}

#[test]
fn copies_are_checked_and_taken_once() {
    let (_folder, intake) = intake(Limits::default());
    let header = Header {
        version: VERSION,
        name: "a.1.data".into(),
        receive_ms: 5,
        receiver: 2,
        sequence: 3,
        key: entry::report_key("a.1.data", b"abc"),
        shard: 1,
        forwarded: false,
    };
    assert!(intake.take_copy(&header, b"abd").is_err());
    assert!(intake.take_copy(&header, b"abc").unwrap());
    assert!(!intake.take_copy(&header, b"abc").unwrap());
    let spool = intake.spool();
    spool.done(&spool.entries(1).unwrap()[0]).unwrap();
    assert!(!intake.take_copy(&header, b"abc").unwrap());
}
