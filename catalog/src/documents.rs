//! Documents: what an operator writes and the nodes obey: engine configuration and access control.
//!
//! Each document has versions; a change names the version that it was made from, and a stale one is refused with the newer
//! number. A removed document keeps its versions, so that one that comes again counts on. What a body means is in
//! [`crate::access`].

use serde::{Deserialize, Serialize};

use moorhouse_base::secret::Secret;

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    /// Of ClickHouse: for the `warehouse`, or for `group/NAME`.
    Engine,
    User,
    Role,
    /// A group of people: users, and the roles that they all have.
    People,
    Profile,
    Quota,
}

impl DocumentKind {
    pub const ALL: [Self; 6] = [Self::Engine, Self::User, Self::Role, Self::People, Self::Profile, Self::Quota];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::User => "user",
            Self::Role => "role",
            Self::People => "people",
            Self::Profile => "profile",
            Self::Quota => "quota",
        }
    }

    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentKey {
    pub kind: DocumentKind,
    name: String,
}

impl DocumentKey {
    pub const NAME_BYTES: usize = 128;

    /// `None` for a name that no document may have: letters, digits, and `_ - . /` inside.
    pub fn new(kind: DocumentKind, name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
        let valid = !name.is_empty() && name.len() <= Self::NAME_BYTES && name.bytes().all(fits);
        valid.then_some(Self { kind, name })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// Counts the changes of one document; 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DocumentVersion(pub u64);

impl std::fmt::Display for DocumentVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One version of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    pub version: DocumentVersion,
    /// JSON; `None`: it is removed. It may hold password hashes.
    pub body: Option<Secret>,
    /// Who wrote it, and when by the leader's clock (Unix time).
    pub by: String,
    pub at_ms: u64,
}

/// One document's part in a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentChange {
    pub key: DocumentKey,
    /// The version that the change was made from.
    pub from: DocumentVersion,
    pub body: Option<Secret>,
}
