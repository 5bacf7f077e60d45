//! Where one HTTP/1.1 request ends and the next begins, without changing a byte of them.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::Method;

/// Of a body, at once.
pub const PIECE_BYTES: usize = 64 << 10;
/// S3 clients send a few hundred bytes.
const LONGEST_HEAD_BYTES: usize = 64 << 10;

#[derive(Debug, PartialEq, Eq)]
pub enum Framed {
    /// A request begins: its head with the empty line.
    Head(Method, Vec<u8>),
    /// More of its body, with the chunks' sizes if it is chunked.
    Body(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Head,
    /// So many bytes of a body, or of a chunk with its line end.
    Bytes {
        left: u64,
        then: After,
    },
    ChunkSize,
    /// Lines after the last chunk, up to the empty one.
    Trailers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Head,
    ChunkSize,
}

/// The requests of one connection.
pub struct Requests<R> {
    from: R,
    /// Read and not handed out yet.
    buffer: Vec<u8>,
    expected: Expected,
}

impl<R: AsyncRead + Unpin> Requests<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), expected: Expected::Head }
    }

    /// None at a clean end between two requests.
    ///
    /// # Errors
    /// When the connection fails or ends inside a request, or speaks no HTTP.
    pub async fn next(&mut self) -> Result<Option<Framed>> {
        match self.expected {
            Expected::Head => {
                let Some(head) = self.take_through(b"\r\n\r\n").await? else { return Ok(None) };
                let (method, expected) = read_head(&head)?;
                self.expected = expected;
                Ok(Some(Framed::Head(method, head)))
            }
            Expected::Bytes { left, then } => {
                let bytes = self.take_some(left).await?;
                let left = left - bytes.len() as u64;
                self.expected = match then {
                    _ if left > 0 => Expected::Bytes { left, then },
                    After::Head => Expected::Head,
                    After::ChunkSize => Expected::ChunkSize,
                };
                Ok(Some(Framed::Body(bytes)))
            }
            Expected::ChunkSize => {
                let line = self.take_through(b"\r\n").await?.ok_or(ErrorKind::UnexpectedEof)?;
                self.expected = match chunk_bytes(&line)? {
                    0 => Expected::Trailers,
                    bytes => Expected::Bytes { left: bytes + 2, then: After::ChunkSize },
                };
                Ok(Some(Framed::Body(line)))
            }
            Expected::Trailers => {
                let line = self.take_through(b"\r\n").await?.ok_or(ErrorKind::UnexpectedEof)?;
                if line == b"\r\n" {
                    self.expected = Expected::Head;
                }
                Ok(Some(Framed::Body(line)))
            }
        }
    }

    /// Everything through the next `end`; None if the connection ends before the first byte.
    async fn take_through(&mut self, end: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            let found = self.buffer[searched..].windows(end.len()).position(|bytes| bytes == end);
            if let Some(at) = found {
                return Ok(Some(self.split(searched + at + end.len())));
            }
            if self.buffer.len() > LONGEST_HEAD_BYTES {
                return Err(Error::new(ErrorKind::InvalidData, "a head or line without an end"));
            }
            searched = self.buffer.len().saturating_sub(end.len() - 1);
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// At least one byte, at most `most` and a piece.
    async fn take_some(&mut self, most: u64) -> Result<Vec<u8>> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(self.split(self.buffer.len().min(most)))
    }

    async fn fill(&mut self) -> Result<usize> {
        self.buffer.reserve(PIECE_BYTES);
        self.from.read_buf(&mut self.buffer).await
    }

    fn split(&mut self, at: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(at);
        std::mem::replace(&mut self.buffer, rest)
    }
}

fn read_head(head: &[u8]) -> Result<(Method, Expected)> {
    let invalid = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let text = std::str::from_utf8(head).map_err(|_| invalid("a head that is not text"))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(word), Some(target)) = (words.next(), words.next()) else {
        return Err(invalid("a request without a target"));
    };
    let mut expected = Expected::Head;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            let left = value.trim().parse().map_err(|_| invalid("a content length that is no number"))?;
            if left > 0 && expected == Expected::Head {
                expected = Expected::Bytes { left, then: After::Head };
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.to_ascii_lowercase().contains("chunked") {
            expected = Expected::ChunkSize;
        }
    }
    Ok((method(word, target), expected))
}

fn method(word: &str, target: &str) -> Method {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    match word {
        "GET" if query.split('&').any(|pair| pair.starts_with("list-type=")) => Method::List,
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        _ => Method::Other,
    }
}

fn chunk_bytes(line: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    let digits = text.trim_end().split(';').next().unwrap_or_default();
    u64::from_str_radix(digits.trim(), 16).map_err(|_| Error::new(ErrorKind::InvalidData, "a chunk without a size"))
}
