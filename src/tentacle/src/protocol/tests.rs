use super::*;
use proptest::prelude::*;
use rstest::rstest;

/// A server with a tiny store; returns all it wrote, "|" between messages, "FIN" at the end when it closed.
fn talk(
    password: Option<&str>,
    files: &[(&str, &str)],
    pieces: &[&[u8]],
) -> (String, Vec<(String, Vec<u8>)>) {
    let now = Instant::now();
    let limits = Limits { size: 1000, ..Limits::default() };
    let mut session = Session::new(limits, password, now);
    let (mut said, mut stored) = (Vec::new(), Vec::new());
    let mut run = |session: &mut Session| {
        while let Some(action) = session.action() {
            match action {
                Action::Write(bytes) => said.push(String::from_utf8_lossy(&bytes).into_owned()),
                Action::Offer { name, .. } => session.answer(
                    match files.iter().any(|file| file.0 == name) {
                        true => Answer::Refused("file already exists"),
                        false => Answer::Yes,
                    },
                    now,
                ),
                Action::Store { name, content } => {
                    stored.push((name, content));
                    session.answer(Answer::Yes, now);
                }
                Action::Fetch { name } => session.answer(
                    match files.iter().find(|file| file.0 == name) {
                        Some(file) => Answer::Content(file.1.into()),
                        None => Answer::Missing,
                    },
                    now,
                ),
                Action::Close(_) => said.push("FIN".into()),
            }
        }
    };
    for piece in pieces {
        session.input(piece, now);
        run(&mut session);
    }
    (said.join("|"), stored)
}

#[rstest]
#[case::plain_send(&["SEND <hello.data> SIZE 17\n", "Hello, Tentacle!\n", "QUIT\n"], "SEND OK\n|SEND OK\n|FIN")]
#[case::two_files(
    &["SEND <b> SIZE 5\n", "12", "345", "SEND <c.data> SIZE 10\n", "xxxxxxxxxx", "QUIT\n"],
    "SEND OK\n|SEND OK\n|SEND OK\n|SEND OK\n|FIN"
)]
#[case::existing(&["SEND <x> SIZE 17\n", "QUIT\n"], "SEND ERR (file already exists)\n|FIN")]
#[case::oversized(&["SEND <m1001> SIZE 1001\n", "QUIT\n"], "SEND ERR (file is too big)\n|FIN")]
#[case::just_fits(&["SEND <m1000> SIZE 1000\n"], "SEND OK\n")]
#[case::empty(&["SEND <empty.data> SIZE 0\n"], "SEND ERR (file is too big)\n")]
#[case::huge_number(&["SEND <a> SIZE 99999999999999999999999999\n"], "SEND ERR (file is too big)\n")]
#[case::leading_zeros(&["SEND <a> SIZE 003\n", "abc"], "SEND OK\n|SEND OK\n")]
#[case::bad_name(&["SEND <bad+name.data> SIZE 1\n", "QUIT\n"], "SEND ERR (invalid file name)\n|FIN")]
#[case::name_before_size(&["SEND <a/b> SIZE 0\n"], "SEND ERR (invalid file name)\n")]
#[case::greedy_name(&["SEND <a> SIZE 1> SIZE 2\n"], "SEND ERR (invalid file name)\n")]
#[case::empty_name(&["SEND <> SIZE 1\n"], "SEND ERR (invalid file name)\n")]
#[case::bad_name_recv(&["RECV <../x>\n"], "RECV ERR (file has an invalid file name)\n")]
#[case::receive(&["RECV <x>\n", "RECV OK\n", "RECV <y>\n", "RECV OK\n", "QUIT\n"], "RECV SIZE 5\n|12345|RECV SIZE 3\n|two|FIN")]
#[case::receive_nothing(&["RECV <nope>\n"], "RECV ERR (file does not exist)\n")]
#[case::goes_on_after_errors(
    &["RECV <no>\n", "SEND <x> SIZE 1\n", "SEND <new1> SIZE 1\n", "Z", "RECV <x>\n", "RECV ERR\n", "RECV <x>\n", "QUIT\n"],
    "RECV ERR (file does not exist)\n|SEND ERR (file already exists)\n|SEND OK\n|SEND OK\n|RECV SIZE 5\n|RECV SIZE 5\n"
)]
#[case::surplus_is_the_next_command(&["SEND <l> SIZE 3\n", "abcQUIT\n"], "SEND OK\n|SEND OK\n|FIN")]
#[case::two_lines_are_none(&["RECV <x>\nQUIT\n"], "FIN")]
#[case::payload_with_the_command(&["SEND <p> SIZE 4\nabc\n"], "FIN")]
#[case::payload_with_the_command_waits(&["SEND <p> SIZE 3\nabc"], "")]
#[case::cut_command(&["QU", "IT", "\n"], "FIN")]
#[case::surplus_line_feed(&["QUIT\n\n"], "FIN")]
#[case::lower(&["quit\n"], "FIN")]
#[case::cr(&["SEND <a> SIZE 1\r\n"], "FIN")]
#[case::blank_at_end(&["SEND <a> SIZE 1 \n"], "FIN")]
#[case::negative(&["SEND <a> SIZE -1\n"], "FIN")]
#[case::no_size(&["SEND <a>\n"], "FIN")]
#[case::empty_line(&["\n"], "FIN")]
#[case::pass_unasked(&["PASS 9e769017c85f064977fe6a658f207fa6\n"], "FIN")]
#[case::compressed(&["ZSEND <z.data> SIZE 190\n"], "FIN")]
#[case::listing(&["LS <>\n"], "FIN")]
fn transcripts(#[case] pieces: &[&str], #[case] expected: &str) {
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
    let (said, _) = talk(None, &[("x", "12345"), ("y", "two")], &pieces);
    assert_eq!(said, expected);
}

#[rstest]
#[case(&["PASS 9e769017c85f064977fe6a658f207fa6\n", "SEND <p.data> SIZE 4\n"], "PASS OK\n|SEND OK\n")]
#[case(&["PASS ced33a2ae06e9cbf6a66fe376cef5ba2\n"], "FIN")]
#[case(&["PASS 9E769017C85F064977FE6A658F207FA6\n"], "FIN")]
#[case(&["PASS 9e769017c85f064977fe6a658f207fa6 \n"], "FIN")]
#[case(&["SEND <p.data> SIZE 4\n"], "FIN")]
#[case(&["PASS 9e769017c85f064977fe6a658f207fa6\n", "PASS 9e769017c85f064977fe6a658f207fa6\n"], "PASS OK\n|FIN")]
fn passwords(#[case] pieces: &[&str], #[case] expected: &str) {
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
    assert_eq!(talk(Some("secret"), &[], &pieces).0, expected);
}

#[rstest]
#[case("has space|x.data", true)]
#[case("$a&b#c%d(e)!@\"`.data", true)]
#[case(".hid", true)]
#[case("trailing ", false)]
#[case(" leading", false)]
#[case("pipe|", false)]
#[case("..", false)]
#[case("nul\0", false)]
#[case("cr\r", false)]
fn names(#[case] name: &str, #[case] valid: bool) {
    assert_eq!(file_name(name.as_bytes()).is_some(), valid);
    assert_eq!(file_name(b"a\xe9.data").as_deref(), Some("aé.data"));
    for forbidden in b"?[]/\\=+<>:;',*~" {
        assert_eq!(file_name(&[b'a', *forbidden, b'b']), None);
    }
    assert_eq!(file_name(&[b'a'; 241]), None);
}

#[test]
fn long_lines_end_the_session() {
    let line = |n: usize| [vec![b'a'; n - 1], vec![b'\n']].concat();
    assert_eq!(talk(None, &[], &[&[b'a'; 1025]]).0, "FIN");
    assert_eq!(talk(None, &[], &[&[b'a'; 1000]]).0, "");
    let long = [b"SEND <".as_slice(), &[b'a'; 1500], b"> SIZE 1\n"].concat();
    assert_eq!(talk(None, &[], &[&long]).0, "SEND ERR (invalid file name)\n");
    assert_eq!(talk(None, &[], &[&line(2049)]).0, "FIN");
}

#[test]
fn silence_and_dribbling_end_the_session_but_not_our_own_slowness() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut session = Session::new(Limits::default(), None, start);
    assert_eq!(session.deadline(), Some(start + 4 * second));
    session.input(b"Q", start + 3 * second);
    assert_eq!(session.deadline(), Some(start + 7 * second));
    let mut now = start;
    while now < start + 20 * second {
        now += 3 * second;
        session.input(b"x", now);
        session.expire(now);
    }
    assert_eq!(session.action(), Some(Action::Close(Closed::TimeOut)));

    let mut session = Session::new(Limits::default(), None, start);
    session.input(b"SEND <a> SIZE 1\n", start);
    assert_eq!(session.deadline(), None);
    session.expire(start + 100 * second);
    session.answer(Answer::Yes, start + 100 * second);
    assert_eq!(session.deadline(), Some(start + 104 * second));
}

proptest! {
    #[test]
    fn no_bytes_in_any_pieces_break_it(pieces in prop::collection::vec(prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3000),
        Just(b"SEND <a.1.data> SIZE 900\n".to_vec()),
        Just(b"RECV <x>\n".to_vec()),
        Just(b"RECV OK\n".to_vec()),
        Just(vec![b'x'; 900]),
    ], 0..20)) {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let (_, stored) = talk(None, &[("x", "12345")], &pieces);
        prop_assert!(stored.iter().all(|file| file.1.len() <= 1000 && valid_name(&file.0)));
    }

    #[test]
    fn memory_stays_within_the_offered_size(pieces in prop::collection::vec(1usize..70_000, 0..30)) {
        let now = Instant::now();
        let mut session = Session::new(Limits { size: 100_000, ..Limits::default() }, None, now);
        session.input(b"SEND <a> SIZE 100000\n", now);
        session.answer(Answer::Yes, now);
        for size in pieces {
            session.input(&vec![b'x'; size], now);
            prop_assert!(session.buffer.len() <= 100_000 + AHEAD_BYTES);
        }
    }

    #[test]
    fn a_payload_in_any_pieces_arrives_whole(content in prop::collection::vec(any::<u8>(), 1..900), cuts in prop::collection::vec(1usize..300, 1..9)) {
        let command = format!("SEND <a> SIZE {}\n", content.len());
        let mut pieces: Vec<&[u8]> = vec![command.as_bytes()];
        let mut rest = content.as_slice();
        for cut in cuts {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            pieces.push(head);
            rest = tail;
        }
        pieces.push(rest);
        let (said, stored) = talk(None, &[], &pieces);
        prop_assert_eq!(said, "SEND OK\n|SEND OK\n");
        prop_assert_eq!(stored, vec![("a".to_string(), content)]);
    }
}
