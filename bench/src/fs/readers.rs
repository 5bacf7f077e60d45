//! Another group's read-only table of many parts, against the same kind of table over a local directory.

use super::machine::timed_ms;
use super::many_parts::insert_parts;
use super::scale::Scale;
use super::writes::in_turn;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::contender::{Contender, Field, Table};
use crate::error::BenchError;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;
use crate::warehouse::{DATABASE, READERS, SHARD_DATABASE};

pub const FIGURES: &[&str] = &["reader_attach_vs_local", "reader_refresh_vs_local"];

const TWIN: &str = "parts_reader";
const SEEN_DEADLINE: Duration = Duration::from_secs(60);

/// `tables`: the owner's, and the local one.
pub async fn run(
    field: &Field<'_>,
    tables: &[Table],
    scale: &Scale,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    let [writer, local] = tables else { return Err(BenchError::Unexpected("two tables are compared".to_owned())) };
    let node = field.warehouse.node(READERS).await?;
    let reader = Table::at(Contender::Moorhouse, SHARD_DATABASE, &writer.table, node.sql);
    expect_parts(&reader, scale.parts).await?;
    let definition = definition(&reader).await?;
    let twin = Table::at(Contender::Local, DATABASE, TWIN, local.sql.clone());
    twin.run(&twin_of(&definition, &reader, local).await?).await?;
    expect_parts(&twin, scale.parts).await?;
    let readers = [reader, twin];
    let measured = measure(&readers, [writer, local], &definition, scale, recorder).await;
    readers[1].run("DETACH TABLE {t} PERMANENTLY SYNC").await?;
    measured
}

async fn measure(
    readers: &[Table; 2],
    writers: [&Table; 2],
    definition: &str,
    scale: &Scale,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    let mut attached = [Samples::new(), Samples::new()];
    let mut refreshed = [Samples::new(), Samples::new()];
    let disks = [quoted_after(definition, "name = ")?, format!("{TWIN}_disk")];
    let mut parts = scale.parts;
    for round in 0..scale.short_rounds {
        for (at, reader) in in_turn(readers, round) {
            reader.run("DETACH TABLE {t} SYNC").await?;
            attached[at].push(timed_ms(reader.run("ATTACH TABLE {t}")).await?);
        }
        parts += 1;
        for (at, reader) in in_turn(readers, round) {
            let refresh = format!("SYSTEM RESTART DISK `{}`", disks[at]);
            insert_parts(writers[at], 1).await?;
            // Ours is told by its agent, which looks first, and that time has much else in it: the second look is compared.
            if reader.contender == Contender::Local {
                reader.run(&refresh).await?;
            }
            expect_parts(reader, parts).await?;
            refreshed[at].push(timed_ms(reader.run(&refresh)).await?);
        }
    }
    for (figure, [ours, theirs]) in FIGURES.iter().zip([&attached, &refreshed]) {
        let sides = (Contender::Moorhouse, Contender::Local);
        recorder.ratio(figure, Unit::Milliseconds, (sides.0, ours), (sides.1, theirs));
    }
    Ok(())
}

async fn definition(reader: &Table) -> Result<String, BenchError> {
    let sql = format!(
        "SELECT create_table_query FROM system.tables WHERE database = '{}' AND name = '{}' FORMAT TSVRaw",
        reader.database, reader.table
    );
    reader.ask(&sql).await
}

/// The reader's own definition, over the directory of the local table.
async fn twin_of(definition: &str, reader: &Table, local: &Table) -> Result<String, BenchError> {
    let sql = format!(
        "SELECT data_paths[1] FROM system.tables WHERE database = '{}' AND name = '{}' FORMAT TSVRaw",
        local.database, local.table
    );
    let directory = local.ask(&sql).await?;
    let (disk, path) = (quoted_after(definition, "name = ")?, quoted_after(definition, "path = ")?);
    let from_columns = definition.find('(').map(|at| &definition[at..]).ok_or_else(|| no_reader(definition))?;
    let settings = from_columns.replace(&disk, &format!("{TWIN}_disk")).replace(&path, directory.trim());
    let name = reader.name();
    if settings.contains("[HIDDEN]") {
        return Err(BenchError::Unexpected(format!("the engine hides the disk of {name}")));
    }
    Ok(format!("ATTACH TABLE {{t}} UUID '{}' {settings}", Uuid::new_v4()))
}

/// The text between quotes after `key`.
fn quoted_after(definition: &str, key: &str) -> Result<String, BenchError> {
    let found = definition.split_once(key).and_then(|(_, rest)| rest.strip_prefix('\'')?.split('\'').next());
    found.map(str::to_owned).ok_or_else(|| no_reader(definition))
}

fn no_reader(definition: &str) -> BenchError {
    BenchError::Unexpected(format!("a reader is defined in a way that is new to the bench: {definition}"))
}

async fn expect_parts(reader: &Table, parts: u64) -> Result<(), BenchError> {
    let started = Instant::now();
    loop {
        let seen = reader.count_parts().await?;
        if seen >= parts {
            return Ok(());
        }
        if started.elapsed() > SEEN_DEADLINE {
            let text = format!("{}: {} has {seen} parts, not {parts}", reader.contender, reader.name());
            return Err(BenchError::Unexpected(text));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::quoted_after;

    #[test]
    fn names_and_paths_are_found_in_a_definition() {
        let definition =
            "… table_disk = 1, disk = disk(name = 'reader_t_0', type = 'object_storage', path = '/m/0/store/')";
        assert_eq!(quoted_after(definition, "name = ").expect("a name"), "reader_t_0");
        assert_eq!(quoted_after(definition, "path = ").expect("a path"), "/m/0/store/");
        assert!(quoted_after(definition, "endpoint = ").is_err());
    }
}
