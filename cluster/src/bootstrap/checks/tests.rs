use super::*;
use crate::state::{Command, Secret};

fn request() -> Request {
    Request {
        protocol: PROTOCOL,
        version: "0.1.0".to_owned(),
        uuid: "u9".to_owned(),
        name: "n9".to_owned(),
        address: "10.0.0.9:1".to_owned(),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        wall_ms: 1_000_000,
        reasons: Vec::new(),
        profiles: true,
    }
}

fn state() -> ClusterState {
    let mut state = ClusterState::default();
    state.apply(1, &Command::InitCluster { uuid: "c".into(), name: "c".into() }).unwrap();
    let admit = Command::AdmitNode {
        uuid: "u2".into(),
        name: "n2".into(),
        spki: "key2".into(),
        address: "10.0.0.2:1".into(),
        spool_address: "10.0.0.2:2".into(),
        gate_address: String::new(),
        console_address: String::new(),
        version: "0.1.0".into(),
    };
    state.apply(2, &admit).unwrap();
    state
}

fn judge(request: &Request, spki: &str, tries: u32, unreachable: Option<&str>) -> Vec<String> {
    let code = JoinCode { verifier: Secret::default(), expires_ms: 2_000_000, tries, replaces: None };
    let unreachable = unreachable.map(str::to_owned);
    let found = Found { request, spki, code: &code, now_ms: 1_000_000, unreachable, leader: true };
    reasons(&state(), &found)
}

#[test]
fn a_sound_request_has_nothing_against_it() {
    assert_eq!(judge(&request(), "key9", 5, None), Vec::<String>::new());
}

#[test]
fn everything_wrong_is_said_at_once() {
    let bad = Request {
        protocol: PROTOCOL + 1,
        name: "n2".to_owned(),
        address: "10.0.0.2:2".to_owned(),
        wall_ms: 1_000_000 + SKEW_MS + 1000,
        reasons: vec!["own port taken".to_owned()],
        ..request()
    };
    let reasons = judge(&bad, "key9", 0, Some("cannot be reached"));
    let wanted = [
        "own port taken",
        "was used",
        "name n2",
        "address 10.0.0.2:2",
        "301 s ahead",
        "protocol",
        "cannot be reached",
    ];
    assert_eq!(reasons.len(), wanted.len(), "{reasons:?}");
    for (reason, wanted) in reasons.iter().zip(wanted) {
        assert!(reason.contains(wanted), "{reason:?} lacks {wanted:?}");
    }
}

#[test]
fn odd_names_and_addresses_are_refused() {
    for name in ["", "a b", "7", "é", &"x".repeat(65)] {
        assert_eq!(
            judge(&Request { name: name.to_owned(), ..request() }, "key9", 5, None).len(),
            1,
            "{name}"
        );
    }
    for address in ["", "host", "host:0", "host:99999", &format!("{}:1", "x".repeat(200))] {
        let bad = Request { address: address.to_owned(), ..request() };
        assert_eq!(judge(&bad, "key9", 5, None).len(), 1, "{address}");
    }
    assert_eq!(judge(&Request { wall_ms: i64::MIN, ..request() }, "key9", 5, None).len(), 1);
}

#[test]
fn a_node_that_lost_the_answer_may_ask_again_and_no_other() {
    let same = Request { name: "n2".to_owned(), address: "10.0.0.2:1".to_owned(), ..request() };
    assert_eq!(judge(&same, "key2", 0, None), Vec::<String>::new());
    assert!(!judge(&same, "key9", 0, None).is_empty(), "another key");
    assert!(!judge(&request(), "key2", 0, None).is_empty(), "another name");
}

#[test]
fn a_place_is_taken_with_name_and_addresses_once_its_node_is_dead() {
    let code = JoinCode { verifier: Secret::default(), expires_ms: 2_000_000, tries: 5, replaces: Some(2) };
    let judge = |state: &ClusterState, spki: &str| {
        let request = Request { name: "n2".into(), address: "10.0.0.2:1".into(), ..request() };
        let found = Found {
            request: &request,
            spki,
            code: &code,
            now_ms: 1_000_000,
            unreachable: None,
            leader: true,
        };
        reasons(state, &found)
    };
    let mut state = state();
    let over = Command::LeaseOver { node: 2, session: 1, at_ms: 0, reason: String::new() };
    for command in [Command::NodeUp { node: 2, session: 1 }, over] {
        state.apply(3, &command).unwrap();
    }
    assert_eq!(judge(&state, "key9"), Vec::<String>::new());
    assert_eq!(judge(&state, "key2").len(), 1, "with a key of its own");
    state.apply(3, &Command::Database(crate::database::Entry::Formed { primary: 2 })).unwrap();
    assert!(judge(&state, "key9")[0].contains("still the database's primary"));
    state.group = None;
    state.apply(4, &Command::NodeUp { node: 2, session: 2 }).unwrap();
    assert!(judge(&state, "key9")[0].contains("n2 lives"));
    state.apply(5, &Command::Remove { node: 2 }).unwrap();
    assert!(judge(&state, "key9")[0].contains("no member any more"));
}
