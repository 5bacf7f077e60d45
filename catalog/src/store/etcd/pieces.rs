//! What goes into one etcd transaction: as much as etcd takes, and no more.

use crate::entry::Write;
use crate::store::StoreError;

/// etcd's default `--max-txn-ops` is 128; one is the counter's.
pub const MAX_OPERATIONS: usize = 127;
/// etcd's default `--max-request-bytes` is 1.5 MiB; the rest is for the compares, the counter and the envelope.
pub const MAX_BYTES: usize = 1_400_000;
/// Of one write, beside its key and value: `data/`, lengths and tags in the request, or in the journal.
const FRAMING_BYTES: usize = 64;

fn bytes_of(write: &Write) -> usize {
    match write {
        Write::Put { key, value } => key.len() + value.len(),
        Write::Delete { key } => key.len(),
    }
}

/// In order; one piece, which may be empty, for what fits into one transaction. `prefix` is the length of what stands before
/// each key.
///
/// # Errors
/// If one record is larger than any transaction may be. It names it.
pub fn split(writes: Vec<Write>, prefix: usize) -> Result<Vec<Vec<Write>>, StoreError> {
    let mut pieces: Vec<Vec<Write>> = Vec::new();
    let mut piece: Vec<Write> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let cost = bytes_of(&write) + prefix + FRAMING_BYTES;
        if cost > MAX_BYTES {
            let key = String::from_utf8_lossy(write.key()).into_owned();
            let text = format!("record {key:?} has {} bytes, etcd takes {MAX_BYTES}", bytes_of(&write));
            return Err(StoreError::Refused(text));
        }
        if piece.len() == MAX_OPERATIONS || bytes + cost > MAX_BYTES {
            pieces.push(std::mem::take(&mut piece));
            bytes = 0;
        }
        bytes += cost;
        piece.push(write);
    }
    pieces.push(piece);
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::journal::encode_piece;
    use super::*;

    /// What etcd's own limits are (`--max-txn-ops`, `--max-request-bytes`).
    const ETCD_OPERATIONS: usize = 128;
    const ETCD_BYTES: usize = 1_572_864;
    /// Two compares, the counter, the alternative, the envelope: each a key below the prefix and a number.
    const REST_BYTES: usize = 1_024;

    fn write() -> impl Strategy<Value = Write> {
        let size = prop_oneof![8 => 0..600_usize, 2 => 0..70_000_usize, 1 => 900_000..1_400_000_usize];
        (1..300_usize, prop::option::weighted(0.8, size)).prop_map(|(key, value)| match value {
            Some(value) => Write::Put { key: vec![b'k'; key], value: vec![0; value] },
            None => Write::Delete { key: vec![b'k'; key] },
        })
    }

    /// Tags and lengths take at most six bytes for each of: key, value, put, operation.
    fn request_bytes(piece: &[Write], prefix: usize) -> usize {
        let data = "/data/".len();
        piece.iter().map(|write| bytes_of(write) + prefix + data + 24).sum::<usize>() + REST_BYTES + 4 * prefix
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn every_piece_is_within_the_limits_of_etcd(writes in prop::collection::vec(write(), 0..400), prefix in 1..64_usize) {
            match split(writes.clone(), prefix) {
                Ok(pieces) => {
                    for piece in &pieces {
                        prop_assert!(piece.len() < ETCD_OPERATIONS);
                        prop_assert!(request_bytes(piece, prefix) <= ETCD_BYTES);
                        // In the journal it is one value.
                        prop_assert!(encode_piece(piece).len() + REST_BYTES <= ETCD_BYTES);
                    }
                    prop_assert_eq!(pieces.concat(), writes);
                }
                Err(_) => prop_assert!(writes.iter().any(|write| bytes_of(write) + prefix + FRAMING_BYTES > MAX_BYTES)),
            }
        }
    }
}
