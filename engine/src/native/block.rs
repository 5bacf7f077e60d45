//! Finds the end of a data block without keeping or understanding its values: for clients that don't speak in chunks.
//!
//! Layouts: ClickHouse's `NativeReader`, `BlockInfo` and the types' `SerializationX`. A type whose layout depends on its
//! values in ways that are not read here (AggregateFunction, Variant, Dynamic, JSON) is [`End::Unknown`].

use std::future::Future;

use super::types::{Layout, layout};

/// Where a block's bytes come from; what was consumed went its way already.
pub trait Source: Send {
    /// What is there, not consumed.
    fn buffer(&self) -> &[u8];
    /// Passes over so many bytes of the buffer.
    fn consume(&mut self, count: usize);
    /// Waits for at least one more byte in the buffer.
    fn fill(&mut self) -> impl Future<Output = Result<(), End>> + Send;
}

/// Why a block's end was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The stream ended, or broke.
    Closed,
    Malformed,
    /// A type whose length cannot be told.
    Unknown,
}

/// From this revision on each column says whether its encoding is a special one.
const REVISION_CUSTOM_SERIALIZATION: u64 = 54_454;
const MOST_COLUMNS: u64 = 1_000_000;
const MOST_ROWS: u64 = 1 << 40;
const LONGEST_NAME: u64 = 1024 * 1024;

/// Passes one block; true if it has neither columns nor rows, which ends a row of blocks.
pub async fn skip_block<S: Source>(source: &mut S, revision: u64) -> Result<bool, End> {
    block_info(source).await?;
    let (columns, rows) = (number(source).await?, number(source).await?);
    if columns > MOST_COLUMNS || rows > MOST_ROWS {
        return Err(End::Malformed);
    }
    for _ in 0..columns {
        let _name = text(source).await?;
        let type_name = String::from_utf8(text(source).await?).map_err(|_| End::Malformed)?;
        if revision >= REVISION_CUSTOM_SERIALIZATION && byte(source).await? != 0 {
            return Err(End::Unknown);
        }
        if rows > 0 {
            let layout = layout(&type_name).ok_or(End::Unknown)?;
            prefix(source, &layout).await?;
            values(source, &layout, rows).await?;
        }
    }
    Ok(columns == 0 && rows == 0)
}

async fn block_info<S: Source>(source: &mut S) -> Result<(), End> {
    loop {
        match number(source).await? {
            0 => return Ok(()),
            1 => skip(source, 1).await?,
            2 => skip(source, 4).await?,
            _ => return Err(End::Malformed),
        }
    }
}

/// What stands before a column's values: the dictionaries' version.
fn prefix<'a, S: Source>(source: &'a mut S, layout: &'a Layout) -> futures::future::BoxFuture<'a, Result<(), End>> {
    Box::pin(async move {
        match layout {
            Layout::Fixed(_) | Layout::Text => Ok(()),
            Layout::Nullable(inner) | Layout::Array(inner) => prefix(source, inner).await,
            Layout::Tuple(elements) => {
                for element in elements {
                    prefix(source, element).await?;
                }
                Ok(())
            }
            Layout::Dictionary(_) => skip(source, 8).await,
        }
    })
}

fn values<'a, S: Source>(
    source: &'a mut S,
    layout: &'a Layout,
    rows: u64,
) -> futures::future::BoxFuture<'a, Result<(), End>> {
    Box::pin(async move {
        if rows == 0 {
            return Ok(());
        }
        match layout {
            Layout::Fixed(width) => skip(source, rows.checked_mul(*width).ok_or(End::Malformed)?).await,
            Layout::Text => texts(source, rows).await,
            Layout::Nullable(inner) => {
                skip(source, rows).await?;
                values(source, inner, rows).await
            }
            Layout::Array(inner) => {
                skip(source, (rows - 1).checked_mul(8).ok_or(End::Malformed)?).await?;
                let elements = fixed::<8, S>(source).await.map(u64::from_le_bytes)?;
                if elements > MOST_ROWS { Err(End::Malformed) } else { values(source, inner, elements).await }
            }
            // An empty tuple has a byte a row.
            Layout::Tuple(elements) if elements.is_empty() => skip(source, rows).await,
            Layout::Tuple(elements) => {
                for element in elements {
                    values(source, element, rows).await?;
                }
                Ok(())
            }
            Layout::Dictionary(keys) => dictionary(source, keys, rows).await,
        }
    })
}

/// LowCardinality: flags with the index's width, the keys, the index.
async fn dictionary<S: Source>(source: &mut S, keys: &Layout, rows: u64) -> Result<(), End> {
    const WIDTH: u64 = 0xff;
    const SHARED_KEYS: u64 = 1 << 8;
    const OWN_KEYS: u64 = 1 << 9;
    let flags = fixed::<8, S>(source).await.map(u64::from_le_bytes)?;
    let width = match flags & WIDTH {
        code @ 0..=3 => 1_u64 << code,
        _ => return Err(End::Malformed),
    };
    // A dictionary shared by several blocks is of the files only.
    if flags & SHARED_KEYS != 0 {
        return Err(End::Unknown);
    }
    if flags & OWN_KEYS != 0 {
        let count = fixed::<8, S>(source).await.map(u64::from_le_bytes)?;
        if count > MOST_ROWS {
            return Err(End::Malformed);
        }
        values(source, keys, count).await?;
    }
    let indexed = fixed::<8, S>(source).await.map(u64::from_le_bytes)?;
    if indexed != rows {
        return Err(End::Malformed);
    }
    skip(source, indexed.checked_mul(width).ok_or(End::Malformed)?).await
}

async fn texts<S: Source>(source: &mut S, rows: u64) -> Result<(), End> {
    for _ in 0..rows {
        let length = number(source).await?;
        skip(source, length).await?;
    }
    Ok(())
}

/// Waits for a byte and passes it.
pub async fn byte<S: Source>(source: &mut S) -> Result<u8, End> {
    loop {
        if let Some(byte) = source.buffer().first().copied() {
            source.consume(1);
            return Ok(byte);
        }
        source.fill().await?;
    }
}

pub async fn fixed<const N: usize, S: Source>(source: &mut S) -> Result<[u8; N], End> {
    let mut bytes = [0; N];
    for slot in &mut bytes {
        *slot = byte(source).await?;
    }
    Ok(bytes)
}

/// Seven bits a byte, the lowest first.
pub async fn number<S: Source>(source: &mut S) -> Result<u64, End> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = byte(source).await?;
        if shift == 63 && byte > 1 {
            return Err(End::Malformed);
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(End::Malformed)
}

/// A name: short enough to be held.
pub async fn text<S: Source>(source: &mut S) -> Result<Vec<u8>, End> {
    let length = number(source).await?;
    if length > LONGEST_NAME {
        return Err(End::Malformed);
    }
    let mut text = Vec::new();
    while (text.len() as u64) < length {
        let wanted = length as usize - text.len();
        let there = source.buffer();
        let taken = there.len().min(wanted);
        text.extend_from_slice(&there[..taken]);
        source.consume(taken);
        if taken < wanted {
            source.fill().await?;
        }
    }
    Ok(text)
}

async fn skip<S: Source>(source: &mut S, mut count: u64) -> Result<(), End> {
    while count > 0 {
        let there = source.buffer().len() as u64;
        let taken = there.min(count);
        source.consume(taken as usize);
        count -= taken;
        if count > 0 {
            source.fill().await?;
        }
    }
    Ok(())
}
