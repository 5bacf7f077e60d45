//! The reading and the writing end of a socket, with buffers that an idle connection does not keep.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits;

/// Bytes that were read and not yet taken.
pub struct Inlet<R> {
    socket: R,
    buffer: BytesMut,
    /// The last read filled what room there was: more room pays.
    busy: bool,
}

impl<R: AsyncRead + Unpin + Send> Inlet<R> {
    pub fn new(socket: R) -> Self {
        Self { socket, buffer: BytesMut::new(), busy: false }
    }

    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Waits for more bytes; false at the end of the stream. Cancelling it loses nothing.
    pub async fn fill(&mut self) -> io::Result<bool> {
        let room = if self.busy { limits::BUSY_READ_BYTES } else { limits::IDLE_READ_BYTES };
        self.buffer.reserve(room);
        let before = self.buffer.len();
        let read = self.socket.read_buf(&mut self.buffer).await?;
        self.busy = read >= room.min(self.buffer.capacity() - before);
        Ok(read > 0)
    }

    pub fn take(&mut self, count: usize) -> Bytes {
        self.buffer.split_to(count).freeze()
    }

    pub fn consume(&mut self, count: usize) {
        self.buffer.advance(count);
    }

    /// Gives the buffer's memory back if nothing is in it.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.busy = false;
        }
    }

    pub fn socket(&self) -> &R {
        &self.socket
    }
}

/// Collects small writes; what was put in is on its way after [`Outlet::flush`].
pub struct Outlet<W> {
    socket: W,
    pending: Vec<u8>,
}

impl<W: AsyncWrite + Unpin + Send> Outlet<W> {
    pub fn new(socket: W) -> Self {
        Self { socket, pending: Vec::new() }
    }

    /// Not to be cancelled: part of the bytes may be out then.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.pending.len() + bytes.len() <= limits::SMALL_WRITE_BYTES {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush().await?;
        self.socket.write_all(bytes).await
    }

    /// Not to be cancelled.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.socket.write_all(&self.pending).await?;
            self.pending = Vec::new();
        }
        self.socket.flush().await
    }

    /// Tells the other side that nothing more comes.
    pub async fn close(&mut self) {
        if let Err(error) = self.socket.shutdown().await {
            tracing::debug!(%error, "a connection was gone already");
        }
    }
}
