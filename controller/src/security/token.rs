//! What a join token is made of, and how it is written.

use std::fmt::Write;

use moorhouse_base::secret::Secret;
use moorhouse_catalog::TokenHash;
use moorhouse_security::{JoinToken, sha256};
use uuid::Uuid;

/// A new token, for the CA with this fingerprint; and what the catalog keeps of it.
pub fn mint(ca_sha256: [u8; 32]) -> (Secret, TokenHash) {
    // Two UUIDs of version 4 have 244 random bits.
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let token = JoinToken { secret: Secret::new(secret), ca_sha256 };
    let hash = hash(&token);
    (token.to_text(), hash)
}

/// Over the secret alone: the fingerprint is for the joining node.
pub fn hash(token: &JoinToken) -> TokenHash {
    TokenHash::new(hex(&sha256(token.secret.expose().as_bytes()))).expect("a SHA-256 has 64 hexadecimal digits")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory does not fail");
        text
    })
}
