//! The protocol's primitives: numbers of seven bits a byte, texts with their length before them.

/// Why no value came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// More bytes will tell.
    Short,
    /// It is something else.
    Malformed,
}

/// Reads from the front; `at` is how far it came.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Seven bits a byte, the lowest first.
    pub fn number(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        // Settings may be negative numbers in 64 bits: then a tenth byte holds the last one.
        match self.byte()? {
            byte @ 0..=1 => Ok(value | u64::from(byte) << 63),
            _ => Err(Stop::Malformed),
        }
    }

    pub fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Short)?;
        self.at += 1;
        Ok(byte)
    }

    /// So many bytes as they are.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(length).ok_or(Stop::Malformed)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(bytes)
    }

    pub fn text(&mut self) -> Result<&'a [u8], Stop> {
        let length = usize::try_from(self.number()?).map_err(|_| Stop::Malformed)?;
        self.bytes(length)
    }

    /// A text that is no longer than this.
    pub fn short_text(&mut self, longest: usize) -> Result<&'a [u8], Stop> {
        let length = self.number()?;
        match usize::try_from(length) {
            Ok(length) if length <= longest => self.bytes(length),
            _ => Err(Stop::Malformed),
        }
    }
}

/// Appends a number.
pub fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a text.
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// A message as chunked framing carries it: one chunk and the end. An empty message is none.
pub fn in_one_chunk(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 8);
    for piece in message.chunks(u32::MAX as usize) {
        out.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    out
}
