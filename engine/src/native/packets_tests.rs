//! What a middleman reads: hellos, queries and blocks, whole, in pieces, and broken.

use futures::FutureExt;
use proptest::prelude::*;

use super::block::{End, Source, skip_block};
use super::handshake::{Addendum, Chunking, ClientHello, NEWEST_REVISION, Proof, ServerHello};
use super::query::{NoQuery, Query};
use super::wire::{Stop, put_number, put_text};

fn hello(user: &[u8]) -> ClientHello {
    ClientHello {
        name: b"test".to_vec(),
        major: 26,
        minor: 7,
        revision: 54_500,
        database: b"d".to_vec(),
        user: user.to_vec(),
        password: vec![0xff, 0],
    }
}

#[test]
fn a_hello_is_read_as_it_was_written() {
    let written = [hello(b"sales").write(), vec![9]].concat();
    let (read, length) = ClientHello::read(&written).expect("whole");
    assert!(read == hello(b"sales") && length == written.len() - 1);
    assert_eq!(read.proof(), Proof::Password);
    assert_eq!(hello(b" INTERSERVER SECRET ").proof(), Proof::ClusterSecret);
    for cut in 0..length {
        assert!(matches!(ClientHello::read(&written[..cut]), Err(Stop::Short)), "{cut}");
    }
}

fn server_hello(revision: u64) -> Vec<u8> {
    let mut out = vec![0];
    put_text(&mut out, b"ClickHouse");
    for number in [26, 7, 54_492] {
        put_number(&mut out, number);
    }
    if revision >= 54_471 {
        put_number(&mut out, 8);
    }
    put_text(&mut out, b"Etc/UTC");
    put_text(&mut out, b"vm");
    if revision >= 54_401 {
        put_number(&mut out, 1);
    }
    if revision >= 54_470 {
        put_text(&mut out, b"chunked_optional");
        put_text(&mut out, b"notchunked");
    }
    if revision >= 54_461 {
        out.extend_from_slice(b"\x01\x02.+\x03why");
    }
    if revision >= 54_462 {
        out.extend_from_slice(&[7; 8]);
    }
    if revision >= 54_474 {
        out.extend_from_slice(b"\x01a\x00\x011\x00");
    }
    out
}

#[test]
fn a_servers_hello_is_told_anew_with_another_revision_and_framing() {
    for revision in [54_372, 54_412, 54_458, 54_462, 54_470, 54_474, NEWEST_REVISION] {
        let written = server_hello(revision);
        let (mut read, length) = ServerHello::read(&written, revision).expect("whole");
        assert_eq!((read.revision, length), (54_492, written.len()));
        assert_eq!(read.write(), written);
        for cut in 0..length {
            assert_eq!(ServerHello::read(&written[..cut], revision), Err(Stop::Short), "{cut} of {revision}");
        }
        read.revision = revision;
        read.chunking = read.chunking.map(|_| (Chunking::EITHER, Chunking::EITHER));
        let (again, _) = ServerHello::read(&read.write(), revision).expect("whole");
        assert_eq!(again, read);
    }
    let (read, _) = ServerHello::read(&server_hello(54_470), 54_470).expect("whole");
    let (send, receive) = read.chunking.expect("told");
    assert!(send.allows(true) && send.allows(false) && receive.allows(false) && !receive.allows(true));
}

/// A query of a client of 2018, whose settings are in their types' encodings.
fn old_query(settings: &[u8], sql: &str) -> Vec<u8> {
    let mut out = vec![1];
    put_text(&mut out, b"id");
    out.push(1);
    for text in ["", "", "[::]:0"] {
        put_text(&mut out, text.as_bytes());
    }
    out.push(1);
    for text in ["root", "vm", "ClickHouse client"] {
        put_text(&mut out, text.as_bytes());
    }
    for number in [18, 16, 54_412] {
        put_number(&mut out, number);
    }
    put_text(&mut out, b"quota");
    put_number(&mut out, 1);
    out.extend_from_slice(settings);
    out.push(0);
    out.extend_from_slice(&[2, 1]);
    put_text(&mut out, sql.as_bytes());
    out
}

#[test]
fn old_settings_are_read_whatever_their_types() {
    let mut settings = Vec::new();
    put_text(&mut settings, b"max_threads");
    put_number(&mut settings, 3);
    put_text(&mut settings, b"load_balancing");
    put_text(&mut settings, b"random");
    put_text(&mut settings, b"max_memory_usage");
    put_number(&mut settings, u64::MAX);
    put_text(&mut settings, b"totals_auto_threshold");
    put_text(&mut settings, b"0.5");
    let packet = old_query(&settings, "SELECT 1");
    let (query, length) = Query::read(&packet, 54_412, 100).expect("whole");
    assert_eq!((query.text.as_slice(), query.compressed, length), (b"SELECT 1".as_slice(), true, packet.len()));
    for cut in 0..length {
        assert_eq!(Query::read(&packet[..cut], 54_412, 100), Err(NoQuery::Short), "{cut}");
    }
}

#[test]
fn a_statement_over_the_limit_is_told_before_it_is_there() {
    let packet = old_query(&[], &"x".repeat(300));
    assert_eq!(Query::read(&packet[..packet.len() - 200], 54_412, 100), Err(NoQuery::TooLong(300)));
}

/// Shows a block in pieces of this size; counts what was passed.
struct Pieces<'a> {
    bytes: &'a [u8],
    shown: usize,
    used: usize,
    size: usize,
}

impl<'a> Pieces<'a> {
    fn new(bytes: &'a [u8], size: usize) -> Self {
        Self { bytes, shown: 0, used: 0, size }
    }
}

impl Source for Pieces<'_> {
    fn buffer(&self) -> &[u8] {
        &self.bytes[self.used..self.shown]
    }
    fn consume(&mut self, count: usize) {
        self.used += count;
        assert!(self.used <= self.shown);
    }
    async fn fill(&mut self) -> Result<(), End> {
        if self.shown == self.bytes.len() {
            return Err(End::Closed);
        }
        self.shown = (self.shown + self.size).min(self.bytes.len());
        Ok(())
    }
}

fn skip(bytes: &[u8], size: usize) -> (Result<bool, End>, usize) {
    let mut pieces = Pieces::new(bytes, size);
    let ended = skip_block(&mut pieces, 54_460).now_or_never().expect("nothing to wait for");
    (ended, pieces.used)
}

/// A block of two rows with these columns: name of the type, bytes of the two values.
fn block(columns: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];
    put_number(&mut out, columns.len() as u64);
    put_number(&mut out, if columns.is_empty() { 0 } else { 2 });
    for (kind, bytes) in columns {
        put_text(&mut out, b"c");
        put_text(&mut out, kind.as_bytes());
        out.push(0);
        out.extend_from_slice(bytes);
    }
    out
}

fn ends(first: u64, second: u64) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

#[test]
fn a_blocks_end_is_found() {
    let texts = b"\x02ab\x00".to_vec();
    let dictionary =
        [ends(1, 0x200), 2_u64.to_le_bytes().to_vec(), texts.clone(), 2_u64.to_le_bytes().to_vec(), vec![0, 1]];
    let columns = [
        ("UInt32", vec![0; 8]),
        ("String", texts.clone()),
        ("Nullable(UInt8)", vec![0, 1, 5, 0]),
        ("Array(Array(UInt8))", [ends(1, 3), ends(0, 2), 2_u64.to_le_bytes().to_vec(), vec![1, 2]].concat()),
        ("Map(String, UInt8)", [ends(1, 2), texts.clone(), vec![1, 2]].concat()),
        ("Tuple(a UInt8, b Tuple(String, UInt16))", [vec![1, 2], texts.clone(), vec![0; 4]].concat()),
        ("LowCardinality(Nullable(String))", dictionary.concat()),
        ("Array(LowCardinality(String))", [1_u64.to_le_bytes().to_vec(), ends(0, 0)].concat()),
        ("Tuple()", vec![0, 0]),
        ("Decimal(20, 3)", vec![0; 32]),
    ];
    let whole = block(&columns);
    for size in [1, 3, 1000] {
        assert_eq!(skip(&whole, size), (Ok(false), whole.len()), "pieces of {size}");
    }
    for cut in 0..whole.len() {
        assert_eq!(skip(&whole[..cut], 7).0, Err(End::Closed), "{cut}");
    }
    let empty = block(&[]);
    assert_eq!(skip(&[empty.clone(), vec![2]].concat(), 1000), (Ok(true), empty.len()));
    assert_eq!(skip(&block(&[("JSON", vec![0; 100])]), 1000).0, Err(End::Unknown));
    assert_eq!(skip(&block(&[("Array(UInt8)", vec![0xff; 100])]), 1000).0, Err(End::Malformed));
}

proptest! {
    #[test]
    fn any_bytes_are_told_something(bytes in proptest::collection::vec(any::<u8>(), 0..400), revision in 54_372_u64..54_480) {
        let _ = ClientHello::read(&bytes).map(|(_, length)| assert!(length <= bytes.len()));
        let _ = ServerHello::read(&bytes, revision).map(|(_, length)| assert!(length <= bytes.len()));
        let _ = Addendum::read(&bytes, revision).map(|(_, length)| assert!(length <= bytes.len()));
        let _ = Query::read(&bytes, revision, 1000).map(|(_, length)| assert!(length <= bytes.len()));
        let (ended, used) = skip(&bytes, 64);
        prop_assert!(used <= bytes.len());
        prop_assert_eq!(skip(&bytes, 1), (ended, used));
    }

    #[test]
    fn a_damaged_query_is_told_something(at in 0_usize..100, with: u8) {
        let mut packet = old_query(b"\x0bmax_threads\x03\x0bmax_threads\x01\x31", "SELECT 1");
        let at = at % packet.len();
        packet[at] = with;
        let _ = Query::read(&packet, 54_412, 1000);
    }
}
