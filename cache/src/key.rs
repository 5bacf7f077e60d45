//! [`BlobKey`]: the name of a blob.

use std::fmt;

use uuid::Uuid;

/// 128 bits that name one immutable content. Displayed as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobKey(pub u128);

impl BlobKey {
    /// Spreads blobs over directories, and keeps together those whose keys were counted up: the files of a part are made one
    /// after another, and one directory is synced faster than ten. So it is the last byte but one.
    pub(crate) const fn bucket(self) -> u8 {
        (self.0 >> 8 & 0xff) as u8
    }

    /// The key of a file name, if it is exactly what `Display` writes.
    pub(crate) fn from_file_name(name: &str) -> Option<Self> {
        let key = Self::from(Uuid::try_parse(name).ok()?);
        (key.to_string() == name).then_some(key)
    }
}

impl From<Uuid> for BlobKey {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.as_u128())
    }
}

impl From<BlobKey> for Uuid {
    fn from(key: BlobKey) -> Self {
        Uuid::from_u128(key.0)
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Uuid::from_u128(self.0).as_hyphenated(), f)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
