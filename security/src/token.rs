//! Join tokens: one secret, and whose word the joining node may trust.

use moorhouse_base::secret::Secret;
use sha2::{Digest, Sha256};

const PREFIX: &str = "mht1.";

/// `mht1.SECRET.FINGERPRINT`: the fingerprint is the SHA-256 of the CA's certificate, so that a node without any file knows
/// to whom it may show the secret.
#[derive(Debug, Clone)]
pub struct JoinToken {
    pub secret: Secret,
    pub ca_sha256: [u8; 32],
}

impl JoinToken {
    pub fn to_text(&self) -> Secret {
        let fingerprint: String = self.ca_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        Secret::new(format!("{PREFIX}{}.{fingerprint}", self.secret.expose()))
    }

    /// The error does not repeat the text.
    pub fn read(text: &Secret) -> Result<Self, &'static str> {
        let wrong = "this is no join token: it begins with mht1. and comes from `moorctl token create`";
        let (secret, fingerprint) =
            text.expose().trim().strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(wrong)?;
        if secret.len() < 32 || fingerprint.len() != 64 || !fingerprint.is_ascii() {
            return Err(wrong);
        }
        let mut ca_sha256 = [0; 32];
        for (index, byte) in ca_sha256.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&fingerprint[2 * index..2 * index + 2], 16).map_err(|_| wrong)?;
        }
        Ok(Self { secret: Secret::new(secret), ca_sha256 })
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_hides_it() {
        let token = JoinToken { secret: Secret::new("s".repeat(64)), ca_sha256: std::array::from_fn(|i| i as u8) };
        let read = JoinToken::read(&token.to_text()).expect("a token");
        assert_eq!((read.secret.clone(), read.ca_sha256), (token.secret.clone(), token.ca_sha256));
        assert!(!format!("{read:?}").contains("sss"));
        for wrong in ["", "mht1.", "mht1.s.00", "mht2.x.y", &format!("mht1.{}.{}", "s".repeat(64), "ü".repeat(32))] {
            assert!(JoinToken::read(&Secret::new(wrong)).is_err(), "{wrong}");
        }
    }
}
