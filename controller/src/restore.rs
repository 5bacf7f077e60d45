//! Puts a backup into an empty store. The warehouse's own record comes last: a restore that was broken off leaves a store that no
//! controller leads.

use std::path::Path;
use std::time::Duration;

use moorhouse_catalog::backup;
use moorhouse_catalog::entry::Write;
use moorhouse_catalog::store::{KeyValue, Store};

use crate::{check, limits};

const WAREHOUSE: &[u8] = b"warehouse";

/// How many records it put.
///
/// # Errors
/// One line with the remedy. The store is then as it was, or holds a part of the backup and no warehouse.
pub async fn restore(file: &Path, store: &dyn Store, ttl: Duration) -> Result<usize, String> {
    let name = file.display();
    let bytes = std::fs::read(file).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let records = backup::read(&bytes).map_err(|error| format!("{name}: {error}; use another backup"))?;
    if !records.iter().any(|(key, _)| key == WAREHOUSE) {
        return Err(format!("{name} holds no warehouse: use another backup"));
    }
    if let Some(violation) = check::check(&records).violations.first() {
        return Err(format!("{name}: {}: {}; use another backup", violation.invariant, violation.detail));
    }
    let leadership = store.acquire_leadership("restore", ttl).await.map_err(|error| error.to_string())?;
    let result = put(records, store, &leadership).await;
    store.resign(leadership).await;
    result
}

async fn put(
    records: Vec<KeyValue>,
    store: &dyn Store,
    leadership: &moorhouse_catalog::store::Leadership,
) -> Result<usize, String> {
    let there = store.range(b"").await.map_err(|error| error.to_string())?;
    if !there.is_empty() {
        return Err(format!(
            "{} is not empty, it has {} records: restore into an empty store",
            store.describe(),
            there.len()
        ));
    }
    let count = records.len();
    let (last, others): (Vec<_>, Vec<_>) = records.into_iter().partition(|(key, _)| key == WAREHOUSE);
    let broken_off = |error| format!("{} was filled in part ({error}): empty it and restore again", store.describe());
    let mut step = Vec::new();
    let mut bytes = 0;
    for (key, value) in others {
        bytes += key.len() + value.len();
        step.push(Write::Put { key, value });
        if step.len() >= limits::RESTORE_WRITES || bytes >= limits::RESTORE_BYTES {
            store.commit(leadership, std::mem::take(&mut step)).await.map_err(broken_off)?;
            bytes = 0;
        }
    }
    step.extend(last.into_iter().map(|(key, value)| Write::Put { key, value }));
    store.commit(leadership, step).await.map_err(broken_off)?;
    Ok(count)
}
