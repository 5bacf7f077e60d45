//! Looks whether a store, read whole, is what a leader could go on from.

use moorhouse_catalog::invariants;
use moorhouse_catalog::state::{Catalog, Limits};
use moorhouse_catalog::store::KeyValue;
use moorhouse_proto::{CheckMetaReply, MetaViolation};

/// A record that cannot be read is a violation like others.
pub fn check(records: &[KeyValue]) -> CheckMetaReply {
    let found = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    let (parts, violations) = match Catalog::load(Limits::default(), found) {
        Ok(catalog) => {
            let parts = catalog.shards().values().map(|shard| shard.parts.len() as u64).sum();
            (parts, invariants::violations(&catalog).into_iter().map(|v| (v.invariant.to_owned(), v.detail)).collect())
        }
        Err(error) => (0, vec![("every_record_is_readable".to_owned(), error.to_string())]),
    };
    let violations: Vec<(String, String)> = violations;
    let violation = |(invariant, detail)| MetaViolation { invariant, detail };
    CheckMetaReply { records: records.len() as u64, parts, violations: violations.into_iter().map(violation).collect() }
}
