//! A peer that sends anything in pieces of any size, while files are taken, refused, found and missed.
#![no_main]

use elpis_tentacle::protocol::{Action, Answer, Limits, Session, valid_name};
use libfuzzer_sys::fuzz_target;
use std::time::{Duration, Instant};

fuzz_target!(|input: &[u8]| {
    let Some((&head, mut rest)) = input.split_first() else { return };
    let mut now = Instant::now();
    let limits = Limits { size: 4096, ..Limits::default() };
    let password = (head & 1 != 0).then_some("secret");
    let mut session = Session::new(limits, password, now);
    let mut turn = head;
    loop {
        while let Some(action) = session.action() {
            turn = turn.wrapping_mul(13).wrapping_add(7);
            let answer = match action {
                Action::Write(bytes) => {
                    assert!(bytes.len() <= 8192);
                    continue;
                }
                Action::Close(_) => return,
                Action::Offer { name, size } => {
                    assert!(valid_name(&name) && size <= 4096);
                    if turn & 1 == 0 { Answer::Yes } else { Answer::Refused("no") }
                }
                Action::Store { name, content } => {
                    assert!(valid_name(&name) && content.len() <= 4096);
                    if turn & 2 == 0 { Answer::Yes } else { Answer::Refused("no") }
                }
                Action::Fetch { name } => {
                    assert!(valid_name(&name));
                    if turn & 4 == 0 { Answer::Content(vec![7; 100]) } else { Answer::Missing }
                }
            };
            session.answer(answer, now);
        }
        // It must always wait for something, and time must end it.
        let deadline = session.deadline();
        assert!(deadline.is_some());
        if rest.is_empty() {
            if let Some(deadline) = deadline {
                session.expire(deadline);
            }
            assert!(session.action().is_some());
            return;
        }
        let piece = usize::from(rest[0] % 64 + 1).min(rest.len());
        now += Duration::from_millis(u64::from(turn));
        session.input(&rest[..piece], now);
        rest = &rest[piece..];
    }
});
