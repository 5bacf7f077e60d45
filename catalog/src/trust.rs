//! Records of who was let in and what was done: join tokens and the audit.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupName, NodeName};

/// SHA-256 of a join token, as 64 hex digits. The token itself is not stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(String);

impl TokenHash {
    /// `None` for what is no such hash.
    pub fn new(hex: impl Into<String>) -> Option<Self> {
        let hex = hex.into();
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (hex.len() == 64 && hex.bytes().all(is_digit)).then_some(Self(hex))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What people call the token by; too short to be of use to anybody else.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl std::fmt::Display for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets one new node of a group in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub hash: TokenHash,
    pub group: GroupName,
    /// Unix time, as the next.
    pub created_ms: u64,
    pub expires_ms: u64,
    pub state: TokenState,
}

/// Goes from open to used or revoked, and from used to revoked; never back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TokenState {
    Open,
    Used {
        node: NodeName,
        /// SHA-256 of the certificate request, hex: the same asker may ask again, whose answer was lost.
        request_sha256: String,
    },
    Revoked,
}

/// Position in the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuditSeq(pub u64);

/// One change: written before it begins, and once more with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub seq: AuditSeq,
    /// Unix time of the beginning, by the leader's clock.
    pub at_ms: u64,
    pub deed: Deed,
    pub outcome: AuditOutcome,
}

/// Who did what, from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// By the certificate: `admin/ada`.
    pub identity: String,
    /// The SQL user on whose behalf a gateway asked.
    pub user: Option<String>,
    /// Address.
    pub from: String,
    /// `drain_node`.
    pub action: String,
    pub target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum AuditOutcome {
    /// Or the leader ended before the outcome was known.
    Running,
    Done,
    Failed {
        error: String,
    },
}

impl Deed {
    /// Longest text of one field, in bytes.
    pub const FIELD_BYTES: usize = 512;

    /// With every field cut to its limit: what is written may come from outside.
    pub(crate) fn bounded(self) -> Self {
        let Self { identity, user, from, action, target } = self;
        Self { identity: cut(identity), user: user.map(cut), from: cut(from), action: cut(action), target: cut(target) }
    }
}

impl AuditOutcome {
    pub(crate) fn bounded(self) -> Self {
        match self {
            Self::Failed { error } => Self::Failed { error: cut(error) },
            Self::Running | Self::Done => self,
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > Deed::FIELD_BYTES {
        let end = (0..=Deed::FIELD_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
