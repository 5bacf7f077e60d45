//! Finds a request's statement: in the URL, in the body, or begun there and ended here; and tells what it is.
//!
//! Reads no more of the body than the classifier needs, at most [`STATEMENT_PEEK_BYTES`].

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use lz4_flex::frame::FrameDecoder;
use ruzstd::decoding::StreamingDecoder;

use crate::body::RequestBody;
use crate::classify::{Extent, Statement, classify};
use crate::exception::{Code, Exception};
use crate::http::request::{Asked, Coding};
use crate::limits::{COMPRESSED_PEEK_BYTES, STATEMENT_PEEK_BYTES};

/// Tells the request's statement. What it read of the body stays in the body.
pub async fn told(asked: &Asked, body: &RequestBody) -> Result<Statement, Exception> {
    let in_url = asked.parameters.get("query");
    let coding = asked.body_coding();
    if asked.is_multipart() {
        let text = in_url.unwrap_or_default();
        return Ok(one(asked, text.as_bytes(), Extent::Whole).unwrap_or(Statement::Other));
    }
    match (in_url, coding) {
        // The engine reads the URL's text, a line break, then the body. A compressed body is data, not the statement's rest.
        (Some(text), Coding::Plain) => peek(asked, body, format!("{text}\n").into_bytes(), Coding::Plain).await,
        (Some(text), _) => Ok(one(asked, text.as_bytes(), Extent::Whole).unwrap_or(Statement::Other)),
        (None, Coding::Other(what)) => Err(Exception::new(
            Code::UnknownCompressionMethod,
            format!(
                "The statement is in a body with {what}, which the gateway does not read. Put the statement into ?query= \
                 and only its data into the body, or use Content-Encoding: gzip."
            ),
        )),
        (None, _) => peek(asked, body, Vec::new(), coding).await,
    }
}

async fn peek(asked: &Asked, body: &RequestBody, start: Vec<u8>, coding: Coding) -> Result<Statement, Exception> {
    let mut raw: Vec<u8> = Vec::new();
    let mut told_at = 0;
    loop {
        let ended = body.is_peeked_whole();
        // Trying again at each doubling only keeps a body of tiny frames cheap.
        if ended || told_at == 0 || raw.len() >= 2 * told_at || raw.len() >= peek_bytes(coding) {
            told_at = raw.len();
            if let Some(statement) = look(asked, &raw, ended, &start, coding)? {
                return Ok(statement);
            }
        }
        match body.peek().await {
            Ok(frame) => raw.extend_from_slice(&frame.unwrap_or_else(Bytes::new)),
            Err(error) => return Err(Exception::new(Code::NetworkError, format!("The request broke off: {error}."))),
        }
    }
}

fn peek_bytes(coding: Coding) -> usize {
    if coding == Coding::Plain { STATEMENT_PEEK_BYTES } else { COMPRESSED_PEEK_BYTES }
}

/// Tells the statement from what is there of the body; `None` if more is needed, never if it has ended.
fn look(asked: &Asked, raw: &[u8], ended: bool, start: &[u8], coding: Coding) -> Result<Option<Statement>, Exception> {
    let mut text = start.to_vec();
    let decoded = decode(raw, coding, &mut text);
    let full = text.len() >= STATEMENT_PEEK_BYTES || raw.len() >= peek_bytes(coding);
    if let Err(error) = decoded
        && !raw.is_empty()
        && (ended || (full && text.len() == start.len()))
    {
        return Err(Exception::new(
            Code::UnknownCompressionMethod,
            format!(
                "The body's beginning is not what its Content-Encoding says, or its blocks are too large: {error}. Correct \
                 the header or the body, or put the statement into ?query=."
            ),
        ));
    }
    text.truncate(STATEMENT_PEEK_BYTES.max(start.len()));
    let extent = match (ended, full) {
        (_, true) => Extent::Cut,
        (true, false) => Extent::Whole,
        (false, false) => Extent::More,
    };
    Ok(one(asked, &text, extent))
}

fn one(asked: &Asked, text: &[u8], extent: Extent) -> Option<Statement> {
    classify(text, extent, &|name| asked.parameters.get(&format!("param_{name}")).map(str::to_owned))
}

/// Appends what can be decoded of a body that may be incomplete; on an error, what came before it.
fn decode(raw: &[u8], coding: Coding, text: &mut Vec<u8>) -> io::Result<()> {
    let mut input = raw;
    match coding {
        Coding::Plain | Coding::Other(_) => text.extend_from_slice(raw),
        Coding::Gzip => append(MultiGzDecoder::new(raw), text)?,
        Coding::Deflate => append(ZlibDecoder::new(raw), text)?,
        // Clients send one frame a block, so there may be several.
        Coding::Lz4 => {
            while !input.is_empty() && text.len() < STATEMENT_PEEK_BYTES {
                append(FrameDecoder::new(&mut input), text)?;
            }
        }
        Coding::Zstd => {
            while !input.is_empty() && text.len() < STATEMENT_PEEK_BYTES {
                append(StreamingDecoder::new(&mut input).map_err(io::Error::other)?, text)?;
            }
        }
    }
    Ok(())
}

fn append(decoder: impl Read, text: &mut Vec<u8>) -> io::Result<()> {
    decoder.take(STATEMENT_PEEK_BYTES as u64).read_to_end(text).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const STATEMENT: &[u8] = b"INSERT INTO d.t FORMAT TSV\n";

    fn lz4(text: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(text).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn decoded(raw: &[u8], coding: Coding) -> Vec<u8> {
        let mut text = Vec::new();
        let _ = decode(raw, coding, &mut text);
        text
    }

    #[test]
    fn an_incomplete_gzip_body_gives_its_beginning() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(STATEMENT).expect("in memory");
        encoder.flush().expect("in memory");
        encoder.write_all(&[b'1'; 5000]).expect("in memory");
        let whole = encoder.finish().expect("in memory");
        assert!(decoded(&whole[..200], Coding::Gzip).starts_with(STATEMENT));
        assert!(decode(b"SELECT 1 is not gzip", Coding::Gzip, &mut Vec::new()).is_err());
    }

    #[test]
    fn frames_of_lz4_and_zstd_are_read_one_by_one() {
        for (coding, encode) in [(Coding::Lz4, lz4 as fn(&[u8]) -> Vec<u8>), (Coding::Zstd, zstd)] {
            let (first, second) = (encode(&STATEMENT[..10]), encode(&STATEMENT[10..]));
            let whole = [first.clone(), second].concat();
            assert_eq!(decoded(&whole, coding), STATEMENT, "{coding:?}");
            assert_eq!(decoded(&whole[..first.len() + 5], coding), &STATEMENT[..10], "{coding:?}");
            let mut text = Vec::new();
            decode(&whole, coding, &mut text).expect("complete");
            assert!(decode(&whole[..first.len() + 5], coding, &mut text).is_err(), "{coding:?}: incomplete");
        }
    }

    #[test]
    fn nothing_panics_on_damaged_bodies() {
        for (coding, whole) in [(Coding::Lz4, lz4(&STATEMENT.repeat(9))), (Coding::Zstd, zstd(&STATEMENT.repeat(9)))] {
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x5A;
                let _ = (decoded(&damaged, coding), decoded(&whole[..at], coding));
            }
        }
    }
}
