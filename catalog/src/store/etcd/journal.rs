//! The pieces of a large commit, as they lie in etcd's journal.

use crate::entry::Write;

/// Length-prefixed: kind, key, value.
pub fn encode_piece(writes: &[Write]) -> Vec<u8> {
    let mut piece = Vec::new();
    let mut field = |bytes: &[u8]| {
        piece.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        piece.extend_from_slice(bytes);
    };
    for write in writes {
        match write {
            Write::Put { key, value } => {
                field(b"put");
                field(key);
                field(value);
            }
            Write::Delete { key } => {
                field(b"delete");
                field(key);
            }
        }
    }
    piece
}

pub fn decode_piece(mut piece: &[u8]) -> Option<Vec<Write>> {
    let mut field = || -> Option<Option<Vec<u8>>> {
        if piece.is_empty() {
            return Some(None);
        }
        let (length, rest) = piece.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        piece = rest;
        Some(Some(bytes.to_vec()))
    };
    let mut writes = Vec::new();
    while let Some(kind) = field()? {
        writes.push(match kind.as_slice() {
            b"put" => Write::Put { key: field()??, value: field()?? },
            b"delete" => Write::Delete { key: field()?? },
            _ => return None,
        });
    }
    Some(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_survives_its_encoding() {
        let writes = vec![
            Write::Put { key: b"a".to_vec(), value: vec![0, 255, 7] },
            Write::Delete { key: b"b/c".to_vec() },
            Write::Put { key: b"d".to_vec(), value: Vec::new() },
        ];
        let piece = encode_piece(&writes);
        assert_eq!(decode_piece(&piece), Some(writes));
        assert_eq!(decode_piece(&piece[..piece.len() - 1]), None);
        assert_eq!(decode_piece(&[]), Some(Vec::new()));
    }
}
