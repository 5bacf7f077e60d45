//! A measurement, not a test: a cold scan and cold point reads over a store that is far away, against what a reader gets that
//! streams one request a file, as ClickHouse's own s3 disk does for a range of marks.
//!
//! `cargo run -p moorhouse-cache --example cold_scan -- [LATENCY_MS] [MB_PER_S_OF_ONE_REQUEST]`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moorhouse_cache::{BlobCache, BlobKey, FetchRange};

const MIB: u64 = 1 << 20;
const PIECE: u64 = 128 << 10;

fn store(blob: Bytes, latency: Duration, bytes_per_s: f64, requests: Arc<AtomicU64>) -> FetchRange {
    Arc::new(move |range| {
        requests.fetch_add(1, Ordering::Relaxed);
        let data = blob.slice(range.start as usize..range.end as usize);
        let takes = latency + Duration::from_secs_f64(data.len() as f64 / bytes_per_s);
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            Ok(data)
        })
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let latency = Duration::from_millis(arguments.next().map_or(Ok(20), |text| text.parse())?);
    let bytes_per_s = arguments.next().map_or(Ok(100.0), |text| text.parse::<f64>())? * 1e6;
    println!("{:>8} {:>12} {:>12} {:>7} {:>9}", "file MiB", "scan ms", "one GET ms", "ratio", "requests");
    for mib in [8, 32, 64, 256] {
        let dir = tempfile::tempdir_in("/dev/shm")?;
        let cache = BlobCache::open(dir.path(), 1 << 30)?;
        let blob: Bytes = vec![7; (mib * MIB) as usize].into();
        let crc = crc32c::crc32c(&blob);
        let requests = Arc::new(AtomicU64::new(0));
        let fetch = store(blob, latency, bytes_per_s, Arc::clone(&requests));
        let reader = cache.open_ranged(BlobKey(u128::from(mib)), mib * MIB, crc, fetch);
        let begun = Instant::now();
        for at in (0..mib * MIB).step_by(PIECE as usize) {
            reader.read(at, PIECE).await?;
        }
        let took = begun.elapsed().as_secs_f64() * 1e3;
        let streamed = (latency.as_secs_f64() + (mib * MIB) as f64 / bytes_per_s) * 1e3;
        let count = requests.load(Ordering::Relaxed);
        println!("{mib:>8} {took:>12.0} {streamed:>12.0} {:>7.2} {count:>9}", took / streamed);
    }
    Ok(())
}
