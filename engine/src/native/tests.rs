//! A conversation taken from the wire, whole, in pieces, and broken.

use proptest::prelude::*;

use super::framing::{Broken, Framing, Kind, Mark};
use super::{ClientVerdict, Session, State};

const REVISION: u64 = 54_488;

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [number(text.len() as u64), text.as_bytes().to_vec()].concat()
}

fn client_hello(user: &str) -> Vec<u8> {
    let mut hello = [number(0), text("chDB"), number(26), number(7), number(REVISION)].concat();
    hello.extend([text("shard_0"), text(user), text("")].concat());
    if user == " INTERSERVER SECRET " {
        hello.extend([text("moorhouse"), text("0123456789abcdef0123456789abcdef")].concat());
    }
    hello
}

fn server_hello(revision: u64) -> Vec<u8> {
    [number(0), text("ClickHouse"), number(26), number(7), number(revision), text("Etc/UTC"), text("vm")].concat()
}

fn addendum(framing: &str) -> Vec<u8> {
    [text(""), text(framing), text(framing), number(8)].concat()
}

/// One message in chunks of `size` bytes.
fn message(kind: u8, length: usize, size: usize) -> Vec<u8> {
    let mut content = vec![0xab; length.max(1)];
    content[0] = kind;
    let mut framed = Vec::new();
    for chunk in content.chunks(size.max(1)) {
        framed.extend((chunk.len() as u32).to_le_bytes());
        framed.extend(chunk);
    }
    framed.extend(0_u32.to_le_bytes());
    framed
}

fn ready() -> Session {
    let mut session = Session::new();
    let hello = client_hello(" INTERSERVER SECRET ");
    assert_eq!(session.client_bytes(&hello, false), ClientVerdict::Forward(hello.len()));
    session.server_bytes(&server_hello(REVISION));
    let addendum = addendum("chunked");
    assert_eq!(session.state(), State::Handshake);
    assert_eq!(session.client_bytes(&addendum, false), ClientVerdict::Forward(addendum.len()));
    assert_eq!(session.state(), State::Pledged);
    session
}

fn forward(session: &mut Session, bytes: &[u8]) {
    assert_eq!(session.client_bytes(bytes, false), ClientVerdict::Forward(bytes.len()));
}

const QUERY: u8 = 1;
const DATA: u8 = 2;
const PING: u8 = 4;
const TABLES_STATUS_REQUEST: u8 = 5;
const EXCEPTION: u8 = 2;
const END_OF_STREAM: u8 = 5;
const TABLES_STATUS_RESPONSE: u8 = 9;

#[test]
fn a_statement_goes_from_question_to_idle() {
    let mut session = ready();
    forward(&mut session, &message(TABLES_STATUS_REQUEST, 38, 100));
    assert_eq!(session.state(), State::Checking);
    session.server_bytes(&message(TABLES_STATUS_RESPONSE, 6, 100));
    assert_eq!(session.state(), State::Pledged);
    forward(&mut session, &message(QUERY, 900, 100));
    forward(&mut session, &message(DATA, 40, 100));
    assert_eq!(session.state(), State::Busy);
    session.server_bytes(&message(1, 5000, 1000));
    assert!(!session.may_close());
    let end = message(END_OF_STREAM, 1, 1);
    session.server_bytes(&end[..end.len() - 1]);
    assert!(!session.may_close(), "the last byte is missing");
    session.server_bytes(&end[end.len() - 1..]);
    assert_eq!(session.state(), State::Idle);
    assert!(session.may_close());
}

#[test]
fn a_failed_insert_may_not_be_cut_while_its_data_comes() {
    let mut session = ready();
    forward(&mut session, &message(QUERY, 10, 10));
    let data = message(DATA, 100, 30);
    forward(&mut session, &data[..50]);
    session.server_bytes(&message(EXCEPTION, 200, 200));
    assert_eq!(session.state(), State::Idle);
    assert!(!session.may_close());
    forward(&mut session, &data[50..]);
    assert!(session.may_close());
}

#[test]
fn while_closing_questions_are_not_passed_on_and_queries_are() {
    let mut session = ready();
    let question = message(TABLES_STATUS_REQUEST, 38, 100);
    assert_eq!(session.client_bytes(&question[..4], true), ClientVerdict::Forward(0), "its kind is not there yet");
    assert_eq!(session.client_bytes(&question, true), ClientVerdict::Close);
    let query = message(QUERY, 100, 100);
    assert_eq!(session.client_bytes(&query, true), ClientVerdict::Forward(query.len()));
    session.server_bytes(&message(END_OF_STREAM, 1, 1));
    assert_eq!(session.client_bytes(&message(PING, 1, 1), true), ClientVerdict::Close);
}

#[test]
fn what_comes_before_a_question_is_passed_on_first() {
    let mut session = ready();
    let late = message(3, 1, 1);
    let both = [late.clone(), message(PING, 1, 1)].concat();
    assert_eq!(session.client_bytes(&both, true), ClientVerdict::Forward(late.len()));
    assert_eq!(session.client_bytes(&both[late.len()..], true), ClientVerdict::Close);
}

#[test]
fn other_protocols_and_framings_are_opaque() {
    let endless = [number(0), number(1 << 20), vec![b'x'; 40_000]].concat();
    for strange in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 20], endless] {
        let mut session = Session::new();
        assert_eq!(session.client_bytes(&strange, true), ClientVerdict::Forward(strange.len()));
        assert_eq!((session.state(), session.may_close()), (State::Opaque, false));
    }
    for (revision, addendum) in [(REVISION, addendum("notchunked")), (54_453, message(QUERY, 9, 9))] {
        let mut session = Session::new();
        let hello = client_hello("sales");
        forward(&mut session, &hello);
        session.server_bytes(&server_hello(revision));
        forward(&mut session, &addendum);
        assert_eq!(session.state(), State::Opaque);
    }
    let mut session = ready();
    session.server_bytes(&[0; 4]);
    assert_eq!(session.state(), State::Opaque, "an empty message");
}

#[test]
fn an_empty_message_is_broken() {
    assert_eq!(Framing::new().step(&[0; 4]), Err(Broken));
}

fn marks(pieces: &[&[u8]]) -> (Vec<Mark>, bool) {
    let mut framing = Framing::new();
    let mut marks = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (used, mark) = framing.step(rest).expect("well formed");
            marks.extend(mark);
            rest = &rest[used..];
        }
    }
    (marks, framing.at_boundary())
}

/// As [`Session::client_bytes`] asks for: what was not passed on is shown again.
fn feed_client(session: &mut Session, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut passed, mut kept) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let ClientVerdict::Forward(count) = session.client_bytes(&kept, false) else { panic!("not closing") };
        passed.extend(kept.drain(..count));
    }
    passed
}

fn cut(bytes: &[u8], mut at: Vec<prop::sample::Index>) -> Vec<&[u8]> {
    let mut places: Vec<usize> = at.drain(..).map(|index| index.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

prop_compose! {
    fn messages()(shapes in prop::collection::vec((0_u8..16, 1_usize..300, 1_usize..100), 1..8)) -> Vec<(u8, Vec<u8>)> {
        shapes.into_iter().map(|(kind, length, size)| (kind, message(kind, length, size))).collect()
    }
}

proptest! {
    #[test]
    fn any_split_of_the_stream_gives_the_same_messages(
        messages in messages(),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let stream = messages.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>();
        let expected: Vec<Mark> =
            messages.iter().flat_map(|(kind, _)| [Mark::Start(Kind(*kind)), Mark::End(Kind(*kind))]).collect();
        prop_assert_eq!(marks(&cut(&stream, at)), (expected, true));
    }

    #[test]
    fn any_split_of_a_client_passes_every_byte_once_and_ends_in_the_same_state(
        messages in messages(),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let stream = messages.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>();
        let (mut whole, mut pieces) = (ready(), ready());
        feed_client(&mut whole, &[&stream]);
        prop_assert_eq!(feed_client(&mut pieces, &cut(&stream, at)), stream);
        prop_assert_eq!(whole.state(), pieces.state());
        prop_assert!(pieces.at_boundary());
    }

    #[test]
    fn any_split_of_the_handshake_leads_to_the_same_end(at in prop::collection::vec(any::<prop::sample::Index>(), 0..9)) {
        let mut session = Session::new();
        let hello = client_hello(" INTERSERVER SECRET ");
        prop_assert_eq!(feed_client(&mut session, &cut(&hello, at.clone())), hello);
        for piece in cut(&server_hello(REVISION), at.clone()) {
            session.server_bytes(piece);
        }
        let rest = [addendum("chunked"), message(QUERY, 50, 20)].concat();
        let mut passed = feed_client(&mut session, &cut(&rest, at));
        // The addendum is passed on by itself; what came with it follows when shown again.
        passed.extend(feed_client(&mut session, &[&rest[passed.len()..]]));
        prop_assert_eq!(passed, rest);
        prop_assert_eq!(session.state(), State::Busy);
    }

    #[test]
    fn garbage_never_panics(
        client in prop::collection::vec(any::<u8>(), 0..400),
        server in prop::collection::vec(any::<u8>(), 0..400),
        closing in any::<bool>(),
    ) {
        for mut session in [Session::new(), ready()] {
            session.client_bytes(&client, closing);
            session.server_bytes(&server);
            session.client_bytes(&server, closing);
        }
    }
}
