//! The hellos and the addendum: who asks, which revision both sides speak, which framing follows.
//!
//! Layouts: ClickHouse's `TCPHandler::sendHello`, `receiveHello`, `receiveAddendum` and `ProtocolDefines.h`.

pub use super::wire::Stop;
use super::wire::{Reader, put_number, put_text};

/// The newest revision whose packets this crate has read; peers are told no higher one. (54 475: query and line numbers.)
pub const NEWEST_REVISION: u64 = 54_475;
/// The oldest one that may ask: before it, servers had no time zone to tell.
pub const OLDEST_REVISION: u64 = 54_058;
const REVISION_TIMEZONE: u64 = 54_058;
const REVISION_DISPLAY_NAME: u64 = 54_372;
const REVISION_PATCH: u64 = 54_401;
/// From this revision on clients send an addendum, beginning with the quota key.
pub const REVISION_ADDENDUM: u64 = 54_458;
const REVISION_PASSWORD_RULES: u64 = 54_461;
const REVISION_NONCE: u64 = 54_462;
/// … with the framing of both directions.
pub const REVISION_CHUNKED: u64 = 54_470;
/// … with the version of the parallel-replicas protocol.
const REVISION_PARALLEL_REPLICAS: u64 = 54_471;
const REVISION_SETTINGS: u64 = 54_474;
/// In place of a user's name: a server of the cluster, proving itself with the cluster's secret.
const INTERSERVER: &[u8] = b" INTERSERVER SECRET ";
/// Before a user's name: the handshake goes on with a challenge.
const SSH_KEY: &[u8] = b" SSH KEY AUTHENTICATION ";
const HELLO: u64 = 0;
/// ClickHouse's own bounds for a hello's texts and password rules are 4 KiB and 256.
const LONGEST_TEXT: usize = 64 * 1024;
const MOST_RULES: u64 = 4096;

/// Name, major and minor version, revision: the same from both sides.
fn hello<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], u64, u64, u64), Stop> {
    if reader.number()? != HELLO {
        return Err(Stop::Malformed);
    }
    Ok((reader.short_text(LONGEST_TEXT)?, reader.number()?, reader.number()?, reader.number()?))
}

/// What a client says first. The password is in it: don't log.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientHello {
    pub name: Vec<u8>,
    pub major: u64,
    pub minor: u64,
    pub revision: u64,
    pub database: Vec<u8>,
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By a password (or a token in its place).
    Password,
    /// By the secret that the servers of a cluster share.
    ClusterSecret,
    SshKey,
}

impl ClientHello {
    /// The hello and its length. What follows an interserver hello (cluster and salt) is not part of it.
    pub fn read(bytes: &[u8]) -> Result<(Self, usize), Stop> {
        let mut reader = Reader::new(bytes);
        let (name, major, minor, revision) = hello(&mut reader)?;
        let mut text = || reader.short_text(LONGEST_TEXT).map(<[u8]>::to_vec);
        let (database, user, password) = (text()?, text()?, text()?);
        Ok((Self { name: name.to_vec(), major, minor, revision, database, user, password }, reader.at))
    }

    pub fn proof(&self) -> Proof {
        if self.user == INTERSERVER {
            Proof::ClusterSecret
        } else if self.user.starts_with(SSH_KEY) {
            Proof::SshKey
        } else {
            Proof::Password
        }
    }

    pub fn write(&self) -> Vec<u8> {
        let Self { name, major, minor, revision, database, user, password } = self;
        let mut out = Vec::new();
        put_number(&mut out, HELLO);
        put_text(&mut out, name);
        for number in [major, minor, revision] {
            put_number(&mut out, *number);
        }
        for text in [database, user, password] {
            put_text(&mut out, text);
        }
        out
    }
}

/// The client's revision and the hello's length.
pub fn client_hello(bytes: &[u8]) -> Result<(u64, usize), Stop> {
    let (hello, mut length) = ClientHello::read(bytes)?;
    if hello.user == INTERSERVER {
        let mut rest = Reader::new(&bytes[length..]);
        let _cluster = rest.text()?;
        let _salt = rest.text()?;
        length += rest.at;
    }
    Ok((hello.revision, length))
}

/// The server's revision. What follows it ends where the client's addendum begins: the client waits for all of it.
pub fn server_revision(bytes: &[u8]) -> Result<u64, Stop> {
    hello(&mut Reader::new(bytes)).map(|(_, _, _, revision)| revision)
}

/// Which framing a side is ready for, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    pub chunked: bool,
    /// The other one would do as well.
    pub optional: bool,
}

impl Chunking {
    pub const EITHER: Self = Self { chunked: true, optional: true };

    /// As ClickHouse reads the words: `chunked`, `notchunked`, each with `_optional` or without.
    pub fn of(word: &[u8]) -> Self {
        Self { chunked: word.starts_with(b"chunked"), optional: word.ends_with(b"_optional") }
    }

    pub fn allows(self, chunked: bool) -> bool {
        self.optional || self.chunked == chunked
    }

    pub fn word(self) -> &'static [u8] {
        match (self.chunked, self.optional) {
            (true, true) => b"chunked_optional",
            (true, false) => b"chunked",
            (false, true) => b"notchunked_optional",
            (false, false) => b"notchunked",
        }
    }
}

/// A server's hello, as it was written for a client of a certain revision. Texts that nobody here needs stay bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    /// Kind, name, major and minor version.
    beginning: Vec<u8>,
    pub revision: u64,
    /// From the revision to the framing: time zone, display name, patch.
    middle: Vec<u8>,
    /// What the server is ready for, sending and receiving.
    pub chunking: Option<(Chunking, Chunking)>,
    /// Password rules, nonce, settings.
    end: Vec<u8>,
}

impl ServerHello {
    /// The hello that a server wrote for a client of this revision (at most [`NEWEST_REVISION`]), and its length.
    pub fn read(bytes: &[u8], revision: u64) -> Result<(Self, usize), Stop> {
        let mut reader = Reader::new(bytes);
        hello(&mut reader)?;
        let after_revision = reader.at;
        let mut start = Reader::new(bytes);
        start.number()?;
        start.text()?;
        start.number()?;
        start.number()?;
        let beginning = bytes[..start.at].to_vec();
        let told = start.number()?;
        if revision >= REVISION_PARALLEL_REPLICAS {
            reader.number()?;
        }
        for since in [REVISION_TIMEZONE, REVISION_DISPLAY_NAME] {
            if revision >= since {
                reader.short_text(LONGEST_TEXT)?;
            }
        }
        if revision >= REVISION_PATCH {
            reader.number()?;
        }
        let middle = bytes[after_revision..reader.at].to_vec();
        let chunking = match revision >= REVISION_CHUNKED {
            true => Some((Chunking::of(reader.short_text(64)?), Chunking::of(reader.short_text(64)?))),
            false => None,
        };
        let after_chunking = reader.at;
        skip_rules_nonce_settings(&mut reader, revision)?;
        let end = bytes[after_chunking..reader.at].to_vec();
        Ok((Self { beginning, revision: told, middle, chunking, end }, reader.at))
    }

    pub fn write(&self) -> Vec<u8> {
        let Self { beginning, revision, middle, chunking, end } = self;
        let mut out = beginning.clone();
        put_number(&mut out, *revision);
        out.extend_from_slice(middle);
        if let Some((send, receive)) = chunking {
            put_text(&mut out, send.word());
            put_text(&mut out, receive.word());
        }
        out.extend_from_slice(end);
        out
    }
}

fn skip_rules_nonce_settings(reader: &mut Reader<'_>, revision: u64) -> Result<(), Stop> {
    if revision >= REVISION_PASSWORD_RULES {
        let rules = reader.number()?;
        if rules > MOST_RULES {
            return Err(Stop::Malformed);
        }
        for _ in 0..2 * rules {
            reader.short_text(LONGEST_TEXT)?;
        }
    }
    if revision >= REVISION_NONCE {
        reader.bytes(8)?;
    }
    if revision >= REVISION_SETTINGS {
        while !reader.short_text(LONGEST_TEXT)?.is_empty() {
            reader.number()?;
            reader.text()?;
        }
    }
    Ok(())
}

/// What a client says after the server's hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addendum {
    pub quota_key: Vec<u8>,
    /// Whether it sends and receives in chunks, as both sides must now do.
    pub send_chunked: bool,
    pub receive_chunked: bool,
    pub parallel_replicas: u64,
}

impl Addendum {
    /// The addendum of a client and its length; nothing for an old one. `revision` is the lower one of both sides.
    pub fn read(bytes: &[u8], revision: u64) -> Result<(Self, usize), Stop> {
        let mut reader = Reader::new(bytes);
        let mut read = Self { quota_key: vec![], send_chunked: false, receive_chunked: false, parallel_replicas: 0 };
        if revision >= REVISION_ADDENDUM {
            read.quota_key = reader.short_text(LONGEST_TEXT)?.to_vec();
        }
        if revision >= REVISION_CHUNKED {
            read.send_chunked = reader.short_text(64)? == b"chunked";
            read.receive_chunked = reader.short_text(64)? == b"chunked";
        }
        if revision >= REVISION_PARALLEL_REPLICAS {
            read.parallel_replicas = reader.number()?;
        }
        Ok((read, reader.at))
    }

    pub fn write(&self, revision: u64) -> Vec<u8> {
        let Self { quota_key, send_chunked, receive_chunked, parallel_replicas } = self;
        let mut out = Vec::new();
        if revision >= REVISION_ADDENDUM {
            put_text(&mut out, quota_key);
        }
        if revision >= REVISION_CHUNKED {
            for chunked in [*send_chunked, *receive_chunked] {
                put_text(&mut out, Chunking { chunked, optional: false }.word());
            }
        }
        if revision >= REVISION_PARALLEL_REPLICAS {
            put_number(&mut out, *parallel_replicas);
        }
        out
    }
}

/// Whether both directions go on in chunks, and the addendum's length. `revision` is the lower one of both sides.
pub fn addendum(bytes: &[u8], revision: u64) -> Result<(bool, usize), Stop> {
    let (addendum, length) = Addendum::read(bytes, revision)?;
    Ok((addendum.send_chunked && addendum.receive_chunked, length))
}
