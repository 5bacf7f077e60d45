//! Follows one direction of a chunked connection.

/// Bytes that show a message's kind: the first chunk's size and the first byte.
pub const HEAD: usize = 5;
const SIZE: usize = 4;

/// The first byte of a message. (It is the first byte of a number, but all kinds are below 128.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u8);

/// What was passed in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Start(Kind),
    End(Kind),
}

/// A run of bytes of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub length: usize,
    /// The bytes are the message's own, not a chunk's size.
    pub is_content: bool,
    pub mark: Option<Mark>,
}

/// The stream is not chunked after all: a message without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// In a chunk's size; `kind` is there if the message has begun.
    Size { read: usize, size: [u8; SIZE], kind: Option<Kind> },
    /// In a chunk's bytes, of which `left` (never 0) are to come.
    Bytes { left: u32, kind: Option<Kind> },
}

/// Where in the stream one direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing(Position);

impl Default for Framing {
    fn default() -> Self {
        Self::new()
    }
}

impl Framing {
    pub fn new() -> Self {
        Self(Position::Size { read: 0, size: [0; SIZE], kind: None })
    }

    /// Between two messages.
    pub fn at_boundary(&self) -> bool {
        matches!(self.0, Position::Size { read: 0, kind: None, .. })
    }

    /// Of the message that begins with `head`.
    pub fn kind_of(head: &[u8; HEAD]) -> Kind {
        Kind(head[SIZE])
    }

    /// Goes on to the next mark or to the end of `bytes`; tells how many bytes that was.
    pub fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<Mark>), Broken> {
        let mut used = 0;
        while used < bytes.len() {
            let (count, mark) = self.advance(&bytes[used..])?;
            used += count;
            if mark.is_some() {
                return Ok((used, mark));
            }
        }
        Ok((used, None))
    }

    /// Goes on through one field, for who wants the content without the sizes. `bytes` is not empty.
    pub fn piece(&mut self, bytes: &[u8]) -> Result<Piece, Broken> {
        let is_content = matches!(self.0, Position::Bytes { .. });
        let (length, mark) = self.advance(bytes)?;
        Ok(Piece { length, is_content, mark })
    }

    /// Through one field; `bytes` is not empty.
    fn advance(&mut self, bytes: &[u8]) -> Result<(usize, Option<Mark>), Broken> {
        match self.0 {
            Position::Size { read, mut size, kind } => {
                let count = bytes.len().min(SIZE - read);
                size[read..read + count].copy_from_slice(&bytes[..count]);
                let read = read + count;
                if read < SIZE {
                    self.0 = Position::Size { read, size, kind };
                    return Ok((count, None));
                }
                match (u32::from_le_bytes(size), kind) {
                    (0, None) => Err(Broken),
                    (0, Some(kind)) => {
                        *self = Self::new();
                        Ok((count, Some(Mark::End(kind))))
                    }
                    (left, kind) => {
                        self.0 = Position::Bytes { left, kind };
                        Ok((count, None))
                    }
                }
            }
            Position::Bytes { left, kind: None } => {
                let kind = Kind(bytes[0]);
                self.0 = after(left, 1, kind);
                Ok((1, Some(Mark::Start(kind))))
            }
            Position::Bytes { left, kind: Some(kind) } => {
                let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(left);
                self.0 = after(left, count, kind);
                Ok((count as usize, None))
            }
        }
    }
}

fn after(left: u32, count: u32, kind: Kind) -> Position {
    match left - count {
        0 => Position::Size { read: 0, size: [0; SIZE], kind: Some(kind) },
        left => Position::Bytes { left, kind: Some(kind) },
    }
}
