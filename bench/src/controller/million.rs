//! A controller with a million parts: what they take, how long it takes to start and to take over.

use std::time::Instant;

use futures::StreamExt;
use moorhouse_catalog::TableShard;
use moorhouse_proto::SnapshotRequest;
use moorhouse_proto::controller_client::ControllerClient;
use tonic::transport::Channel;

use super::books::{Books, Form, Seat};
use super::ground::Ground;
use super::process::{Agent, Controller};
use super::scale::Scale;
use crate::error::BenchError;
use crate::fs::machine::anonymous_memory_mib;
use crate::report::Recorder;
use crate::stats::Samples;

pub const FIGURES: &[&str] = &[
    "etcd_bytes_per_part",
    "etcd_bytes_per_compact_part",
    "etcd_bytes_per_wide_part",
    "memory_bytes_per_part",
    "startup",
    "startup_memory",
    "takeover",
];

/// Snapshots that are taken at once to have everything in memory.
const SNAPSHOTS_AT_ONCE: usize = 8;

/// Seats of the books: half of the tables have compact parts, half wide ones; the last one is the large table.
pub struct Million {
    pub seats: Vec<Seat>,
    pub store_url: String,
    pub objects_url: String,
}

impl Million {
    pub fn large(&self) -> &Seat {
        &self.seats[self.seats.len() - 1]
    }

    /// Fills a store, and tells what a part takes there.
    pub async fn fill(ground: &Ground, scale: &Scale, recorder: &mut Recorder) -> Result<Self, BenchError> {
        let (store_url, objects_url) = (ground.etcd.store_url("million"), ground.objects_url("million"));
        let (mut books, seats) = Books::open(&store_url, &objects_url, scale.tables + 1).await?;
        let (small, large) = seats.split_at(scale.tables);
        let each = (scale.parts - scale.large) / scale.tables as u64;
        let (compact, wide) = small.split_at(scale.tables / 2);
        for seat in compact {
            books.add_parts(seat, each, Form::Compact).await?;
        }
        for seat in wide {
            books.add_parts(seat, each, Form::Wide).await?;
        }
        for seat in large {
            books.add_parts(seat, scale.large, Form::Compact).await?;
        }
        let per_part = async |seats: &[Seat]| -> Result<f64, BenchError> {
            Ok(books.stored_bytes(seats).await? as f64 / (seats.len() as u64 * each) as f64)
        };
        let (of_compact, of_wide) = (per_part(compact).await?, per_part(wide).await?);
        recorder.value("etcd_bytes_per_compact_part", &Samples::of(of_compact));
        recorder.value("etcd_bytes_per_wide_part", &Samples::of(of_wide));
        recorder.value("etcd_bytes_per_part", &Samples::of(f64::midpoint(of_compact, of_wide)));
        books.close().await;
        Ok(Self { seats, store_url, objects_url })
    }
}

/// Leaves a controller that leads.
pub async fn run(
    ground: &Ground,
    scale: &Scale,
    million: &Million,
    recorder: &mut Recorder,
) -> Result<Controller, BenchError> {
    let place = ground.place(&million.store_url, &million.objects_url);
    let small = &million.seats[..scale.tables];
    let mut startups = Samples::new();
    let mut memory = Samples::new();
    let mut leader = None;
    for _ in 0..scale.rounds {
        // The one before is stopped; a new one waits for its lease no longer than for its start.
        drop(leader.take());
        ground.wait_for_lease().await;
        let started = Instant::now();
        let mut controller = Controller::start(&place)?;
        let mut agent = Agent::new(controller.client()?, small[0].clone())?;
        controller.commits(&mut agent).await?;
        startups.push(started.elapsed().as_secs_f64() * 1e3);
        memory.push(anonymous_memory_mib(controller.pid())?);
        leader = Some(controller);
    }
    recorder.value("startup", &startups);
    recorder.value("startup_memory", &memory);
    let mut leader = leader.ok_or_else(|| BenchError::Unexpected("no rounds".to_owned()))?;
    let bytes = memory_of_parts(&leader, scale, million).await?;
    recorder.value("memory_bytes_per_part", &Samples::of(bytes));
    let mut takeovers = Samples::new();
    for seat in small.iter().take(scale.rounds) {
        let mut standby = Controller::start(&place)?;
        let mut agent = Agent::new(standby.client()?, seat.clone())?;
        // It answers, if only with who leads: from now on it stands by.
        tokio::time::sleep(super::process::LEADER_TTL).await;
        let killed = Instant::now();
        leader.kill()?;
        standby.commits(&mut agent).await?;
        takeovers.push(killed.elapsed().as_secs_f64() * 1e3);
        leader = standby;
    }
    recorder.value("takeover", &takeovers);
    Ok(leader)
}

/// With everything in memory, less what a controller takes whose store is empty.
async fn memory_of_parts(leader: &Controller, scale: &Scale, million: &Million) -> Result<f64, BenchError> {
    let client = leader.client()?;
    let loading = futures::stream::iter(&million.seats).map(|seat| snapshot(client.clone(), seat.at));
    let mut loading = loading.buffer_unordered(SNAPSHOTS_AT_ONCE);
    while let Some(loaded) = loading.next().await {
        loaded?;
    }
    let empty = Samples::of(scale.empty_controller_mib).summary().map_or(0.0, |summary| summary.median);
    let taken = anonymous_memory_mib(leader.pid())? - empty;
    Ok(taken * 1024.0 * 1024.0 / scale.parts as f64)
}

/// Takes a whole snapshot of a table shard; answers with its bytes.
pub async fn snapshot(mut client: ControllerClient<Channel>, at: TableShard) -> Result<usize, BenchError> {
    let request = SnapshotRequest { table: at.table.to_wire().into(), shard: u32::from(at.shard.0) };
    let refused = |status: tonic::Status| BenchError::Unexpected(format!("a snapshot: {}", status.message()));
    let mut pages = client.stream_snapshot(request).await.map_err(refused)?.into_inner();
    let mut bytes = 0;
    while let Some(page) = pages.message().await.map_err(refused)? {
        bytes += page.snapshot_record.len();
    }
    Ok(bytes)
}
