//! How a table's bytes are kept: what a table may ask for instead of its node's defaults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a part's bytes are before its commit answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Synced on the writer's volume: lost with it, until they are stored.
    #[default]
    Local,
    /// Synced on another node, too.
    Replicated,
    /// In the object store.
    Object,
}

impl Durability {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Replicated => "replicated",
            Self::Object => "object",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Local, Self::Replicated, Self::Object];
        let known = all.into_iter().find(|mode| mode.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is no mode of durability: use local, replicated or object"))
    }
}

/// A table's own settings; what is `None` is its node's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableStorage {
    pub durability: Option<Durability>,
    /// Left alone for so long, a part is uploaded.
    pub settle_ms: Option<u64>,
    /// As large as this, at once.
    pub settle_bytes: Option<u64>,
    /// So often merged, at once.
    pub settle_level: Option<u32>,
}

impl TableStorage {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Changes one setting by its name; `default` gives it back to the node. The error says what is allowed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "durability" => self.durability = read(name, value)?,
            "settle_ms" => self.settle_ms = read(name, value)?,
            "settle_bytes" => self.settle_bytes = read(name, value)?,
            "settle_level" => self.settle_level = read(name, value)?,
            _ => {
                return Err(format!(
                    "there is no setting {name:?}: there are durability, settle_ms, settle_bytes and settle_level"
                ));
            }
        }
        Ok(())
    }
}

fn read<T: FromStr>(name: &str, value: &str) -> Result<Option<T>, String>
where
    T::Err: fmt::Display,
{
    if value == "default" {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|error| format!("{name}: {value:?} is not valid ({error}), nor is it `default`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_set_and_given_back() {
        let mut storage = TableStorage::default();
        storage.set("durability", "replicated").expect("valid");
        storage.set("settle_ms", "5").expect("valid");
        assert_eq!((storage.durability, storage.settle_ms), (Some(Durability::Replicated), Some(5)));
        storage.set("durability", "default").expect("valid");
        storage.set("settle_ms", "default").expect("valid");
        assert!(storage.is_default());
        for (name, value) in [("durability", "raid"), ("settle_ms", "soon"), ("colour", "red")] {
            assert!(storage.set(name, value).is_err(), "{name}={value}");
        }
        assert!(storage.is_default());
    }
}
