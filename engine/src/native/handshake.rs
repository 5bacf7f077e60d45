//! The hellos and the addendum, as far as they decide how the connection goes on.

/// From this revision on clients send an addendum, beginning with the quota key.
const REVISION_ADDENDUM: u64 = 54_458;
/// … with the framing of both directions.
pub const REVISION_CHUNKED: u64 = 54_470;
/// … with the version of the parallel-replicas protocol.
const REVISION_PARALLEL_REPLICAS: u64 = 54_471;
/// In place of a user's name: a server of the cluster, proving itself with the cluster's secret.
const INTERSERVER: &[u8] = b" INTERSERVER SECRET ";
const HELLO: u64 = 0;

/// Why no value came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// More bytes will tell.
    Short,
    /// It is something else.
    Malformed,
}

/// Reads from the front; `at` is how far it came.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Stop::Short)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Malformed)
    }

    fn text(&mut self) -> Result<&'a [u8], Stop> {
        let length = usize::try_from(self.number()?).map_err(|_| Stop::Malformed)?;
        let end = self.at.checked_add(length).ok_or(Stop::Malformed)?;
        let text = self.bytes.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(text)
    }

    /// Name, major and minor version, revision: the same from both sides.
    fn hello(&mut self) -> Result<u64, Stop> {
        if self.number()? != HELLO {
            return Err(Stop::Malformed);
        }
        self.text()?;
        self.number()?;
        self.number()?;
        self.number()
    }
}

/// The client's revision and the hello's length.
pub fn client_hello(bytes: &[u8]) -> Result<(u64, usize), Stop> {
    let mut reader = Reader::new(bytes);
    let revision = reader.hello()?;
    let _database = reader.text()?;
    let user = reader.text()?;
    let _password = reader.text()?;
    if user == INTERSERVER {
        let _cluster = reader.text()?;
        let _salt = reader.text()?;
    }
    Ok((revision, reader.at))
}

/// The server's revision. What follows it ends where the client's addendum begins: the client waits for all of it.
pub fn server_revision(bytes: &[u8]) -> Result<u64, Stop> {
    Reader::new(bytes).hello()
}

/// Whether both directions go on in chunks, and the addendum's length. `revision` is the lower one of both sides.
pub fn addendum(bytes: &[u8], revision: u64) -> Result<(bool, usize), Stop> {
    let mut reader = Reader::new(bytes);
    if revision >= REVISION_ADDENDUM {
        let _quota_key = reader.text()?;
    }
    let mut chunked = false;
    if revision >= REVISION_CHUNKED {
        let (send, receive) = (reader.text()?, reader.text()?);
        chunked = send == b"chunked" && receive == b"chunked";
    }
    if revision >= REVISION_PARALLEL_REPLICAS {
        reader.number()?;
    }
    Ok((chunked, reader.at))
}
