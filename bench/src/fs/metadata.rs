//! Names alone: how many operations a second the mount takes, beside the disk below it.
//!
//! In a directory in progress of a table's own directory, where ClickHouse writes its parts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::machine::blocking;
use super::scale::Scale;
use super::writes::in_turn;
use crate::contender::{Contender, Field, Table};
use crate::error::BenchError;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;

pub const FIGURES: &[&str] = &[
    "meta_create_vs_local",
    "meta_stat_vs_local",
    "meta_rename_vs_local",
    "meta_link_vs_local",
    "meta_readdir_vs_local",
    "meta_unlink_vs_local",
];

/// A whole listing is one operation of many steps: so many of them.
const LISTINGS: u64 = 20;

/// Milliseconds for 1,000 of each operation, so that the figure is a quotient of times like all others.
type Took = [f64; 6];

/// `table`: ours, for its directory on the mount.
pub async fn run(field: &Field<'_>, table: &Table, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let sql = format!(
        "SELECT data_paths[1] FROM system.tables WHERE database = '{}' AND name = '{}' FORMAT TSVRaw",
        table.database, table.table
    );
    let on_mount = PathBuf::from(table.ask(&sql).await?.trim());
    let mount = field.warehouse.mount(field.owner);
    if !on_mount.starts_with(&mount) {
        let text = format!("{} is not on the mount {}", on_mount.display(), mount.display());
        return Err(BenchError::Unexpected(text));
    }
    // Beside the mount: the disk that its bytes are on.
    let local = mount.with_file_name("plain-files");
    let places = [on_mount, local];
    let mut took: [[Samples; 2]; 6] = std::array::from_fn(|_| [Samples::new(), Samples::new()]);
    for round in 0..scale.short_rounds {
        for (at, place) in in_turn(&places, round) {
            let (dir, files) = (place.join(format!("tmp_bench_{round}")), scale.files);
            let once =
                blocking(move || operate(&dir, files).map_err(BenchError::io(format!("in {}", dir.display())))).await?;
            for (took, once) in took.iter_mut().zip(once) {
                took[at].push(once);
            }
        }
    }
    for (figure, [ours, theirs]) in FIGURES.iter().zip(&took) {
        let sides = (Contender::Moorhouse, Contender::Local);
        recorder.ratio(figure, Unit::Milliseconds, (sides.0, ours), (sides.1, theirs));
    }
    Ok(())
}

/// Makes `dir` and leaves nothing of it.
fn operate(dir: &Path, files: u64) -> std::io::Result<Took> {
    let path = |kind: &str, number: u64| dir.join(format!("{kind}{number}.bin"));
    fs::create_dir_all(dir)?;
    let create = per_thousand(files, |number| fs::File::create_new(path("made", number)).map(drop))?;
    let stat = per_thousand(files, |number| fs::metadata(path("made", number)).map(drop))?;
    let rename = per_thousand(files, |number| fs::rename(path("made", number), path("named", number)))?;
    let link = per_thousand(files, |number| fs::hard_link(path("named", number), path("linked", number)))?;
    let list = per_thousand(LISTINGS, |_| match fs::read_dir(dir)?.count() as u64 {
        found if found == files * 2 => Ok(()),
        found => Err(std::io::Error::other(format!("{found} names are listed, not {}", files * 2))),
    })?;
    let unlink = per_thousand(files * 2, |number| match number.checked_sub(files) {
        None => fs::remove_file(path("named", number)),
        Some(number) => fs::remove_file(path("linked", number)),
    })?;
    fs::remove_dir(dir)?;
    Ok([create, stat, rename, link, list, unlink])
}

fn per_thousand(times: u64, mut operation: impl FnMut(u64) -> std::io::Result<()>) -> std::io::Result<f64> {
    let started = Instant::now();
    for number in 0..times {
        operation(number)?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / times as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_disk_can_do_all_of_it_and_nothing_is_left() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = dir.path().join("files");
        let took = operate(&place, 10).expect("a disk");
        assert!(took.iter().all(|milliseconds| *milliseconds > 0.0), "{took:?}");
        assert!(!place.exists());
    }
}
