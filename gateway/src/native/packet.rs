//! Kinds of packets, and the few that the gateway writes or reads through itself.

use moorhouse_engine::native::block::{self, End, Source};
use moorhouse_engine::native::wire::{in_one_chunk, put_text};

use crate::exception::Exception;

/// What clients send.
pub mod kind {
    pub const QUERY: u8 = 1;
    pub const DATA: u8 = 2;
    pub const CANCEL: u8 = 3;
    pub const PING: u8 = 4;
    pub const TABLES_STATUS: u8 = 5;
    pub const KEEP_ALIVE: u8 = 6;
    pub const SCALAR: u8 = 7;
}

/// What nodes send.
pub mod answer {
    pub const DATA: u8 = 1;
    pub const EXCEPTION: u8 = 2;
    pub const PROGRESS: u8 = 3;
    pub const PONG: u8 = 4;
    pub const END_OF_STREAM: u8 = 5;
    pub const PROFILE_INFO: u8 = 6;
    pub const TABLES_STATUS: u8 = 9;
    pub const LOG: u8 = 10;
    pub const TABLE_COLUMNS: u8 = 11;
    pub const PROFILE_EVENTS: u8 = 14;
    pub const TIMEZONE: u8 = 17;
}

/// An exception as a node writes it: code, name, text, no stack, nothing nested.
pub fn exception(exception: &Exception) -> Vec<u8> {
    let mut out = vec![answer::EXCEPTION];
    out.extend_from_slice(&exception.code.number().to_le_bytes());
    put_text(&mut out, b"DB::Exception");
    let said = exception.to_string();
    let text = said.trim_end().split_once(". ").map_or(said.as_str(), |(_code, text)| text);
    put_text(&mut out, text.as_bytes());
    put_text(&mut out, b"");
    out.push(0);
    out
}

/// A message in the client's framing.
pub fn framed(message: &[u8], chunked: bool) -> Vec<u8> {
    if chunked { in_one_chunk(message) } else { message.to_vec() }
}

/// `(database, table)` so many times.
pub async fn skip_table_names<S: Source>(source: &mut S) -> Result<(), End> {
    let count = block::number(source).await?;
    for _ in 0..count.checked_mul(2).ok_or(End::Malformed)? {
        block::text(source).await?;
    }
    Ok(())
}

/// Passes one packet of an answer, not in chunks; gives its kind.
pub async fn skip_answer<S: Source>(source: &mut S, revision: u64) -> Result<u8, End> {
    let kind = u8::try_from(block::number(source).await?).map_err(|_| End::Malformed)?;
    match kind {
        answer::END_OF_STREAM | answer::PONG => {}
        answer::EXCEPTION => skip_exception(source).await?,
        answer::PROGRESS => {
            let fields = 3 + [54_420, 54_420, 54_460, 54_463].iter().filter(|since| revision >= **since).count();
            for _ in 0..fields {
                block::number(source).await?;
            }
        }
        answer::PROFILE_INFO => {
            for _ in 0..3 {
                block::number(source).await?;
            }
            block::byte(source).await?;
            block::number(source).await?;
            block::byte(source).await?;
            if revision >= 54_469 {
                block::byte(source).await?;
                block::number(source).await?;
            }
        }
        answer::LOG | answer::PROFILE_EVENTS => {
            block::text(source).await?;
            block::skip_block(source, revision).await?;
        }
        answer::TABLE_COLUMNS => {
            block::text(source).await?;
            block::text(source).await?;
        }
        answer::TIMEZONE => drop(block::text(source).await?),
        _ => return Err(End::Unknown),
    }
    Ok(kind)
}

async fn skip_exception<S: Source>(source: &mut S) -> Result<(), End> {
    loop {
        let _code: [u8; 4] = block::fixed(source).await?;
        for _ in 0..3 {
            block::text(source).await?;
        }
        if block::byte(source).await? == 0 {
            return Ok(());
        }
    }
}
