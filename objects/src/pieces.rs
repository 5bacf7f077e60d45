//! Uploads in pieces that outlive whoever began them: [`Begun`] is all that is needed to go on, in another process too.
//!
//! A store bills the pieces of an upload that nobody ends, and lists them only by an interface of its own. So each upload
//! leaves a note, a small object below [`NOTES`], before its first piece is sent, and takes it away at its end: whoever sweeps
//! reads the notes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::ObjectsError;
use crate::metrics::{self, Method, observed};
use crate::objects::{MULTIPART_ABOVE_BYTES, Objects, PIECE_BYTES, cut};

/// Notes lie below this, under the key of their object.
const NOTES: &str = "unfinished";
/// S3 takes 10,000 pieces an object; the margin is for other makes of it.
const PIECES_MAX: u64 = 9_000;

/// An upload that was begun and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    upload: String,
    piece_bytes: u64,
    /// What the store has, by number, and its name for each.
    sent: BTreeMap<usize, String>,
}

/// One piece of an upload, to be sent.
#[derive(Clone, Debug)]
pub struct Piece {
    index: usize,
    body: Vec<Bytes>,
}

/// What the store has of a piece.
#[derive(Clone, Debug)]
pub struct Sent {
    index: usize,
    name: String,
}

/// An upload that has left a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub key: String,
    upload: String,
}

impl Piece {
    pub fn bytes(&self) -> u64 {
        self.body.iter().map(|chunk| chunk.len() as u64).sum()
    }
}

impl Begun {
    /// The pieces of the object's body that the store does not have, in order; the body is the same at each try.
    pub fn missing(&self, body: Vec<Bytes>) -> Vec<Piece> {
        let pieces = cut(body, self.piece_bytes).into_iter().enumerate();
        let pieces = pieces.filter(|(index, _)| !self.sent.contains_key(index));
        pieces.map(|(index, body)| Piece { index, body }).collect()
    }

    /// How many pieces the store has.
    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    pub fn note(&mut self, sent: Sent) {
        self.sent.insert(sent.index, sent.name);
    }
}

impl Objects {
    /// Whether a body of this length goes up in pieces that outlive their sender; a directory takes every body whole.
    pub fn takes_pieces_of(&self, bytes: u64) -> bool {
        bytes > MULTIPART_ABOVE_BYTES && self.door.takes_pieces()
    }

    /// Begins the upload of an object of `bytes`. Two billed writes.
    pub async fn begin(&self, key: &str, bytes: u64) -> Result<Begun, ObjectsError> {
        let upload = observed(Method::Put, self.door.begin_pieces(key)).await?;
        let note = vec![Bytes::from(upload.clone())];
        observed(Method::Put, self.door.put(&note_of(key), note)).await?;
        let piece_bytes = bytes.div_ceil(PIECES_MAX).next_multiple_of(1 << 20).max(PIECE_BYTES);
        Ok(Begun { upload, piece_bytes, sent: BTreeMap::new() })
    }

    /// Sends one piece; the store checks it. [`ObjectsError::NotFound`] if the store has forgotten the upload, or has ended it.
    pub async fn send_piece(&self, key: &str, begun: &Begun, piece: Piece) -> Result<Sent, ObjectsError> {
        let (index, bytes) = (piece.index, piece.bytes());
        let name = observed(Method::Put, self.door.put_piece(key, &begun.upload, index, piece.body)).await?;
        metrics::moved(Method::Put, bytes);
        Ok(Sent { index, name })
    }

    /// Makes the object of all its pieces. [`ObjectsError::NotFound`] as for [`Objects::send_piece`]: then the object is there
    /// whole, or not at all.
    pub async fn complete(&self, key: &str, begun: &Begun) -> Result<(), ObjectsError> {
        let names = begun.sent.values().cloned().collect();
        observed(Method::Put, self.door.complete_pieces(key, &begun.upload, names)).await
    }

    /// Takes the upload's note away: it has ended.
    pub async fn forget_note(&self, key: &str) -> Result<(), ObjectsError> {
        self.delete(&note_of(key)).await
    }

    /// Ends the upload without an object, and takes its pieces away. Fine if the store knows nothing of it.
    pub async fn give_up(&self, key: &str, begun: &Begun) -> Result<(), ObjectsError> {
        self.abort(key, &begun.upload).await
    }

    /// Uploads that were begun and, as far as the notes say, have not ended.
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, ObjectsError> {
        let mut found = Vec::new();
        for (note, _) in self.list(NOTES).await? {
            let Some(key) = note.strip_prefix(NOTES).and_then(|key| key.strip_prefix('/')) else { continue };
            match observed(Method::Get, self.door.get(&note)).await {
                Ok(upload) => {
                    let upload = String::from_utf8_lossy(&upload).into_owned();
                    found.push(Unfinished { key: key.to_owned(), upload });
                }
                // It has ended meanwhile.
                Err(ObjectsError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// [`Objects::give_up`] for somebody else's upload.
    pub async fn give_up_unfinished(&self, unfinished: &Unfinished) -> Result<(), ObjectsError> {
        self.abort(&unfinished.key, &unfinished.upload).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<(), ObjectsError> {
        observed(Method::Delete, self.door.abort_pieces(key, upload)).await?;
        self.forget_note(key).await
    }
}

fn note_of(key: &str) -> String {
    format!("{NOTES}/{key}")
}
