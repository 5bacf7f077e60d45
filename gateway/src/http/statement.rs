//! Finds a request's statement: in the URL, in the body, or begun there and ended here; and tells what it is.
//!
//! Reads no more of the body than the classifier needs, at most [`STATEMENT_PEEK_BYTES`].

use std::io::Read;

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};

use crate::body::RequestBody;
use crate::classify::{Extent, Statement, classify};
use crate::exception::{Code, Exception};
use crate::http::request::{Asked, Coding};
use crate::limits::STATEMENT_PEEK_BYTES;

/// Tells the request's statement. What it read of the body stays in the body.
pub async fn told(asked: &Asked, body: &RequestBody) -> Result<Statement, Exception> {
    let in_url = asked.parameters.get("query");
    let coding = asked.body_coding();
    if asked.is_multipart() {
        let text = in_url.unwrap_or_default();
        return Ok(one(asked, text.as_bytes(), Extent::Whole).unwrap_or(Statement::Read));
    }
    match (in_url, coding) {
        // The engine reads the URL's text, a line break, then the body. A compressed body is data, not the statement's rest.
        (Some(text), Coding::Plain) => peek(asked, body, format!("{text}\n").into_bytes(), Coding::Plain).await,
        (Some(text), _) => Ok(one(asked, text.as_bytes(), Extent::Whole).unwrap_or(Statement::Read)),
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
        if ended || told_at == 0 || raw.len() >= 2 * told_at {
            told_at = raw.len();
            let mut text = start.clone();
            let decoded = decode(&raw, coding, &mut text);
            let full = text.len() >= STATEMENT_PEEK_BYTES || raw.len() >= STATEMENT_PEEK_BYTES;
            text.truncate(STATEMENT_PEEK_BYTES.max(start.len()));
            let extent = match (ended, full) {
                (_, true) => Extent::Cut,
                (true, false) => Extent::Whole,
                (false, false) => Extent::More,
            };
            if let Some(statement) = one(asked, &text, extent) {
                return decoded.map(|()| statement);
            }
        }
        match body.peek().await {
            Ok(frame) => raw.extend_from_slice(&frame.unwrap_or_else(Bytes::new)),
            Err(error) => return Err(Exception::new(Code::NetworkError, format!("The request broke off: {error}."))),
        }
    }
}

fn one(asked: &Asked, text: &[u8], extent: Extent) -> Option<Statement> {
    classify(text, extent, &|name| asked.parameters.get(&format!("param_{name}")).map(str::to_owned))
}

/// Appends what can be decoded of an incomplete body. An incomplete frame is no error, a wrong one is.
fn decode(raw: &[u8], coding: Coding, text: &mut Vec<u8>) -> Result<(), Exception> {
    let room = STATEMENT_PEEK_BYTES as u64;
    let decoded = match coding {
        Coding::Plain | Coding::Other(_) => {
            text.extend_from_slice(raw);
            return Ok(());
        }
        Coding::Gzip => GzDecoder::new(raw).take(room).read_to_end(text),
        Coding::Deflate => ZlibDecoder::new(raw).take(room).read_to_end(text),
    };
    match decoded {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(Exception::new(
            Code::UnknownCompressionMethod,
            format!("The body is not what its Content-Encoding says: {error}. Correct the header or the body."),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_incomplete_gzip_body_gives_its_beginning() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(b"INSERT INTO d.t FORMAT TSV\n").expect("in memory");
        encoder.flush().expect("in memory");
        encoder.write_all(&[b'1'; 5000]).expect("in memory");
        let whole = encoder.finish().expect("in memory");
        let mut text = Vec::new();
        decode(&whole[..200], Coding::Gzip, &mut text).expect("incomplete is no error");
        assert!(text.starts_with(b"INSERT INTO d.t FORMAT TSV\n"), "{}", String::from_utf8_lossy(&text));
        assert!(decode(b"SELECT 1 is not gzip", Coding::Gzip, &mut Vec::new()).is_err());
    }
}
