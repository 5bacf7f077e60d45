//! The content of compressed blocks, frame by frame, read only to find a block's end.
//!
//! A frame (ClickHouse's `CompressedReadBufferBase`): checksum (16 bytes), method, its size from the method on, the
//! content's size (u32 LE each), bytes. The checksum is the node's business.

use std::io::Read;

use moorhouse_engine::native::block::{End, Source, fixed};
use ruzstd::decoding::StreamingDecoder;

use crate::limits;

const HEADER: u64 = 9;
const PLAIN: u8 = 0x02;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;

pub struct Frames<'a, S> {
    source: &'a mut S,
    content: Vec<u8>,
    at: usize,
}

impl<'a, S: Source> Frames<'a, S> {
    pub fn new(source: &'a mut S) -> Self {
        Self { source, content: Vec::new(), at: 0 }
    }

    /// A block ends with a frame: else it was not understood.
    pub fn at_end(&self) -> Result<(), End> {
        if self.at == self.content.len() { Ok(()) } else { Err(End::Malformed) }
    }

    async fn frame(&mut self) -> Result<Vec<u8>, End> {
        let _checksum: [u8; 16] = fixed(self.source).await?;
        let [method] = fixed(self.source).await?;
        let size = u64::from(u32::from_le_bytes(fixed(self.source).await?));
        let content = u32::from_le_bytes(fixed(self.source).await?) as usize;
        let size = size.checked_sub(HEADER).ok_or(End::Malformed)? as usize;
        if size > limits::FRAME_BYTES || content > limits::FRAME_BYTES {
            return Err(End::Malformed);
        }
        let mut bytes = Vec::with_capacity(size.min(limits::BUSY_READ_BYTES));
        while bytes.len() < size {
            if self.source.buffer().is_empty() {
                self.source.fill().await?;
            }
            let there = self.source.buffer();
            let taken = there.len().min(size - bytes.len());
            bytes.extend_from_slice(&there[..taken]);
            self.source.consume(taken);
        }
        decode(method, bytes, content)
    }
}

fn decode(method: u8, bytes: Vec<u8>, length: usize) -> Result<Vec<u8>, End> {
    let content = match method {
        PLAIN => bytes,
        LZ4 => lz4_flex::block::decompress(&bytes, length).map_err(|_| End::Malformed)?,
        ZSTD => {
            let mut content = Vec::new();
            let decoder = StreamingDecoder::new(bytes.as_slice()).map_err(|_| End::Malformed)?;
            decoder.take(length as u64 + 1).read_to_end(&mut content).map_err(|_| End::Malformed)?;
            content
        }
        _ => return Err(End::Unknown),
    };
    if content.len() == length { Ok(content) } else { Err(End::Malformed) }
}

impl<S: Source> Source for Frames<'_, S> {
    fn buffer(&self) -> &[u8] {
        &self.content[self.at..]
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }

    /// Called when all is consumed.
    async fn fill(&mut self) -> Result<(), End> {
        self.content = self.frame().await?;
        self.at = 0;
        Ok(())
    }
}
