//! Loading TPC-H over HTTP: rows are generated on a thread and streamed into the INSERT as they come.

use std::fmt::{Display, Write};

use bytes::{Bytes, BytesMut};
use indicatif::ProgressBar;
use moorhouse_engine::SqlClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::console;
use crate::error::DemoError;
use crate::tpch::{DATABASE, Table};

const CHUNK_BYTES: usize = 256 << 10;
/// How far the generator may be ahead of the network.
const CHUNKS_AHEAD: usize = 8;

/// Makes the database and the eight tables.
pub async fn create_tables(sql: &SqlClient) -> Result<(), DemoError> {
    sql.execute(&format!("CREATE DATABASE {DATABASE}")).await.map_err(DemoError::sql("CREATE DATABASE"))?;
    for table in Table::ALL {
        sql.execute(&table.create_sql()).await.map_err(DemoError::sql(format!("CREATE TABLE {}", table.name())))?;
    }
    Ok(())
}

/// Loads one table; the answer is the number of rows sent.
pub async fn load_table(sql: &SqlClient, table: Table, scale: f64) -> Result<u64, DemoError> {
    let bar = console::rows_bar(table.name(), table.expected_rows(scale));
    let batches = table.batches(scale);
    let mut rows = 0;
    for batch in 1..=batches {
        rows += load_batch(sql, table, scale, (batch, batches), bar.clone()).await?;
    }
    bar.finish_and_clear();
    Ok(rows)
}

async fn load_batch(
    sql: &SqlClient,
    table: Table,
    scale: f64,
    batch: (i32, i32),
    bar: ProgressBar,
) -> Result<u64, DemoError> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let generator = tokio::task::spawn_blocking(move || {
        let mut sink = ChunkSink { chunk: BytesMut::with_capacity(CHUNK_BYTES), rows: 0, rows_sent: 0, sender, bar };
        table.generate(scale, batch.0, batch.1, |row| sink.push(row));
        sink.flush();
        sink.rows
    });
    let inserted = sql.insert(&table.insert_sql(), ReceiverStream::new(receiver)).await;
    inserted.map_err(DemoError::sql(format!("INSERT INTO {}", table.name())))?;
    generator.await.map_err(|error| DemoError::Io { what: "generating rows".to_owned(), source: error.into() })
}

/// Lines in, chunks out.
struct ChunkSink {
    chunk: BytesMut,
    rows: u64,
    rows_sent: u64,
    sender: mpsc::Sender<Bytes>,
    bar: ProgressBar,
}

impl ChunkSink {
    /// False when nobody listens any more.
    fn push(&mut self, row: &dyn Display) -> bool {
        writeln!(self.chunk, "{row}").expect("writing to memory does not fail");
        self.rows += 1;
        // A line is shorter than a kilobyte.
        self.chunk.len() < CHUNK_BYTES - 1024 || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.bar.inc(self.rows - self.rows_sent);
        self.rows_sent = self.rows;
        let chunk = std::mem::replace(&mut self.chunk, BytesMut::with_capacity(CHUNK_BYTES)).freeze();
        chunk.is_empty() || self.sender.blocking_send(chunk).is_ok()
    }
}
