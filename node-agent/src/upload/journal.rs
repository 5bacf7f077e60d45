//! Uploads in pieces, noted on the SSD: a process that follows goes on with them, and sends no piece twice.
//!
//! One file an upload, in JSON, replaced by rename. What is lost of it costs a piece that is sent again, never bytes of a part:
//! so nothing here is synced.

use std::fs;
use std::path::{Path, PathBuf};

use moorhouse_catalog::{BlobId, ObjectKey, TableShard};
use moorhouse_objects::Begun;
use serde::{Deserialize, Serialize};

use super::pack::{Packed, PackedFile};

const FORMAT: u32 = 1;

/// All that is needed to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    format: u32,
    pub shard: TableShard,
    pub key: ObjectKey,
    parts_begun: usize,
    files: Vec<NotedFile>,
    pub begun: Begun,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotedFile {
    part: usize,
    blob: BlobId,
    bytes: u64,
    offset: u64,
}

impl Noted {
    pub fn new(shard: TableShard, key: &ObjectKey, packed: &Packed, begun: &Begun) -> Self {
        let Packed { files, parts_begun } = packed;
        let note = |file: &PackedFile| {
            let PackedFile { part, blob, bytes, offset } = *file;
            NotedFile { part, blob, bytes, offset }
        };
        let files = files.iter().map(note).collect();
        Self { format: FORMAT, shard, key: key.clone(), parts_begun: *parts_begun, files, begun: begun.clone() }
    }

    pub fn packed(&self) -> Packed {
        let file = |noted: &NotedFile| {
            let NotedFile { part, blob, bytes, offset } = *noted;
            PackedFile { part, blob, bytes, offset }
        };
        Packed { files: self.files.iter().map(file).collect(), parts_begun: self.parts_begun }
    }
}

/// The directory of the notes.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// Makes the directory if it is not there.
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Writes or replaces the note of an upload.
    pub fn save(&self, noted: &Noted) -> std::io::Result<()> {
        let path = self.path(&noted.key);
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(noted)?)?;
        fs::rename(fresh, path)
    }

    pub fn forget(&self, key: &ObjectKey) -> std::io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What an earlier process has left. A note that cannot be read is dropped: its upload starts anew, and the controller
    /// sweeps the old one.
    pub fn load(&self) -> std::io::Result<Vec<Noted>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let read = fs::read(&path).map_err(|error| error.to_string());
            let noted = read.and_then(|text| serde_json::from_slice::<Noted>(&text).map_err(|error| error.to_string()));
            match noted {
                Ok(noted) if noted.format == FORMAT && path == self.path(&noted.key) => found.push(noted),
                outcome => {
                    let why = outcome.err().unwrap_or_else(|| "it is of another version".to_owned());
                    tracing::info!(note = %path.display(), why, "the note of an upload is dropped");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(found)
    }

    /// The last part of a key is unique.
    fn path(&self, key: &ObjectKey) -> PathBuf {
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        self.dir.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use moorhouse_catalog::{ShardId, TableId};

    use super::*;

    /// The format of a note, as an earlier version wrote it.
    #[test]
    fn a_note_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(dir.path()).expect("opens");
        let text = r#"{"format":1,"shard":{"table":"00000000-0000-0000-0000-000000000007","shard":3},
            "key":"parts/t/3/018bcfe5687b-00000000000000000000000000000009","parts_begun":1,
            "files":[{"part":0,"blob":"00000000-0000-0000-0000-000000000001","bytes":5,"offset":0}],
            "begun":{"upload":"u","piece_bytes":16,"sent":{"0":"etag"}}}"#;
        let name = "018bcfe5687b-00000000000000000000000000000009.json";
        fs::write(dir.path().join(name), text).expect("writes");
        fs::write(dir.path().join("other.json"), "{").expect("writes");
        let found = journal.load().expect("reads");
        let [noted] = found.as_slice() else { panic!("{found:?}") };
        let shard = TableShard { table: TableId(uuid::Uuid::from_u128(7)), shard: ShardId(3) };
        assert_eq!((noted.shard, noted.begun.sent(), noted.packed().bytes()), (shard, 1, 5));
        assert!(!dir.path().join("other.json").exists());
        journal.save(noted).expect("saves");
        assert_eq!(journal.load().expect("reads"), found);
        journal.forget(&noted.key).expect("forgets");
        assert_eq!(journal.load().expect("reads"), []);
    }
}
