//! What a path of the mount means: `<shard>/store/<3 hex>/<engine uuid>/…`.
//!
//! Names that ClickHouse gives to work in progress (`tmp_…`, `delete_tmp_…`, `detached/attaching_…`) are *overlay*: they
//! live on this node alone. The names that stand for finished work are *committed*: they exist only with the catalog's word.
//! What FREEZE makes, `<shard>/shadow/<backup>/store/<3 hex>/<engine uuid>/<part>`, is that table shard's `shadow/<backup>/<part>`.

use moorhouse_catalog::parts::PartInfo;
use moorhouse_catalog::{FilePath, PartPath, ShardId, TableShard};
use uuid::Uuid;

/// Holds the small files of the engine's insert deduplication; beside `detached` the only lasting directory of a table.
pub const DEDUPLICATION_LOGS: &str = "deduplication_logs";
pub const DETACHED: &str = "detached";
/// Frozen parts, beside `store`.
pub const SHADOW: &str = "shadow";

/// Where a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The mount's root, a shard's root, `store`, or a 3-hex directory: made by the view, not by the engine.
    Fixed,
    /// At or below a table shard's directory; `below` is empty for the directory itself.
    Table { shard: TableShard, below: Vec<String> },
    /// The engine's own scratch beside `store` (access checks, `tmp`): overlay, small.
    Scratch,
}

impl Place {
    /// `path`: the names from the mount's root down.
    pub fn of(path: &[&str]) -> Place {
        match path {
            [] | [_] | [_, "store"] | [_, "store", _] => Place::Fixed,
            [shard, "store", _, uuid, below @ ..] => Self::in_table(shard, uuid, &[], below),
            [shard, SHADOW, backup, "store", _, uuid, below @ ..] => {
                Self::in_table(shard, uuid, &[SHADOW, backup], below)
            }
            _ => Place::Scratch,
        }
    }

    fn in_table(shard: &str, uuid: &str, above: &[&str], below: &[&str]) -> Place {
        // A reader's directory of a later generation has a number behind the UUID.
        let uuid = uuid.split('.').next().unwrap_or_default();
        match (shard.parse(), Uuid::parse_str(uuid)) {
            (Ok(shard), Ok(uuid)) => Place::Table {
                shard: TableShard::from_engine_uuid(ShardId(shard), uuid),
                below: above.iter().chain(below).map(|name| name.to_string()).collect(),
            },
            _ => Place::Scratch,
        }
    }

    /// The place of the entry `name` in a directory at this place.
    pub fn entry(&self, name: &str) -> Option<(TableShard, Vec<String>)> {
        match self {
            Place::Table { shard, below } => {
                let mut path = below.clone();
                path.push(name.to_string());
                Some((*shard, path))
            }
            Place::Fixed | Place::Scratch => None,
        }
    }
}

/// The committed part that a directory with this path below its table is, if it is one.
pub fn committed_part(below: &[String]) -> Option<PartPath> {
    let path = match below {
        [name] if PartInfo::parse(name).is_some() => name.clone(),
        [dir, name] if dir == DETACHED && !is_in_progress(name) => format!("{dir}/{name}"),
        [dir, backup, name] if dir == SHADOW => format!("{dir}/{backup}/{name}"),
        _ => return None,
    };
    PartPath::new(path).ok()
}

/// What a detached part is called while it is attached.
pub fn is_attaching(below: &[String]) -> bool {
    matches!(below, [dir, name] if dir == DETACHED && name.starts_with("attaching_"))
}

pub fn is_frozen(part: &PartPath) -> bool {
    part.as_str().starts_with("shadow/")
}

/// Whether the engine makes and removes such a part name by name, without a rename that would say when it is done.
pub fn is_loose(part: &PartPath) -> bool {
    part.as_str().contains('/')
}

/// The loose part that an entry with this path is, or lies in.
pub fn loose_part(below: &[String]) -> Option<PartPath> {
    (2..=below.len().min(3)).find_map(|length| committed_part(&below[..length])).filter(is_loose)
}

/// The names from the mount's root down to a part's directory.
pub fn part_way(ts: TableShard, part: &PartPath) -> Vec<String> {
    let table = super::table_path(ts);
    let names: Vec<String> = part.as_str().split('/').map(str::to_string).collect();
    match names.as_slice() {
        [dir, backup, name] if dir == SHADOW => {
            let [shard, store, prefix, uuid] = table;
            vec![shard, dir.clone(), backup.clone(), store, prefix, uuid, name.clone()]
        }
        _ => table.into_iter().chain(names).collect(),
    }
}

/// The committed part that contains this path, if one does.
pub fn enclosing_part(below: &[String]) -> Option<PartPath> {
    (1..below.len()).find_map(|length| committed_part(&below[..length]))
}

/// The lasting non-part file that a file with this path below its table is, if it is one.
pub fn committed_inode(below: &[String]) -> Option<FilePath> {
    let lasting = match below {
        [name] => !is_in_progress(name) && name != FORMAT_VERSION,
        [dir, name] => dir == DEDUPLICATION_LOGS && !is_in_progress(name),
        _ => false,
    };
    lasting.then(|| FilePath::new(below.join("/")).ok()).flatten()
}

/// Whether a file made at this path belongs to a part-like directory: its bytes then get a blob of their own.
pub fn holds_part_bytes(below: &[String]) -> bool {
    below.len() > 1 && below[0] != DEDUPLICATION_LOGS
}

/// The same in every table: shown, never stored.
pub const FORMAT_VERSION: &str = "format_version.txt";
pub const FORMAT_VERSION_CONTENT: &[u8] = b"1";

fn is_in_progress(name: &str) -> bool {
    ["tmp_", "delete_tmp_", "attaching_", "deleting_"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(path: &str) -> Vec<String> {
        path.split('/').map(str::to_string).collect()
    }

    #[test]
    fn work_in_progress_is_never_a_committed_part() {
        for name in [
            "tmp_insert_all_1_1_0",
            "tmp_merge_202401_1_4_1",
            "tmp_mut_all_1_1_0_5",
            "delete_tmp_all_1_1_0",
            "detached/attaching_all_1_1_0",
            "detached/deleting_all_1_1_0",
            "moving/all_1_1_0",
            "detached",
        ] {
            assert_eq!(committed_part(&below(name)), None, "{name}");
        }
        for name in ["all_1_1_0", "202401_1_4_1_7", "detached/all_1_1_0", "detached/broken_all_1_1_0"] {
            assert_eq!(committed_part(&below(name)).map(String::from).as_deref(), Some(name));
        }
    }

    #[test]
    fn lasting_files_are_told_from_temporary_ones() {
        assert!(committed_inode(&below("mutation_3.txt")).is_some());
        assert!(committed_inode(&below("deduplication_logs/deduplication_log_1.txt")).is_some());
        assert!(committed_inode(&below("tmp_mutation_3.txt")).is_none());
        assert!(committed_inode(&below("format_version.txt")).is_none());
        assert!(committed_inode(&below("all_1_1_0/count.txt")).is_none());
    }

    #[test]
    fn paths_are_read_from_the_root_down() {
        let ts = TableShard { table: moorhouse_catalog::TableId(Uuid::from_u128(7)), shard: ShardId(3) };
        let table = ts.engine_uuid().to_string();
        assert_eq!(Place::of(&["3", "store", "abc"]), Place::Fixed);
        assert_eq!(Place::of(&["3", "tmp"]), Place::Scratch);
        let frozen = ["3", "shadow", "b", "store", &table[..3], &table, "all_1_1_0"];
        let Place::Table { shard, below } = Place::of(&frozen) else { panic!("a table's path") };
        assert_eq!((shard, below.join("/").as_str()), (ts, "shadow/b/all_1_1_0"));
        let part = committed_part(&below).expect("a frozen part");
        assert!(is_loose(&part));
        assert_eq!(part_way(ts, &part), frozen);
        assert_eq!(Place::of(&frozen[..5]), Place::Scratch);
        let Place::Table { shard, below } = Place::of(&["3", "store", "abc", &table, "all_1_1_0"]) else {
            panic!("a table's path");
        };
        assert_eq!((shard, below.as_slice()), (ts, ["all_1_1_0".to_string()].as_slice()));
        assert!(enclosing_part(&["all_1_1_0".into(), "p.proj".into(), "data.bin".into()]).is_some());
    }
}
