//! Text that must not be seen: passwords, their hashes, keys, tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Shows itself to nobody who does not say [`Secret::expose`]: no `Display`, and a `Debug` without content. Records and
/// files keep it as the plain text that it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it. Never for a log, an error, a metric or a listing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_debug_says_nothing() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "only its Debug is looked at")]
        struct Login {
            user: &'static str,
            password: Secret,
        }
        let said = format!("{:?}", Login { user: "ada", password: Secret::new("hunter2") });
        assert!(said.contains("ada") && !said.contains("hunter2"), "{said}");
    }
}
