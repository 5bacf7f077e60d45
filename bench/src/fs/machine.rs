//! The machine that is measured on: what it is, how busy it is, and making it calm and cold.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scale::Scale;
use crate::error::BenchError;

/// Runs `work` and tells how long it took, in milliseconds.
///
/// # Errors
/// Those of `work`.
pub async fn timed_ms<T>(work: impl Future<Output = Result<T, BenchError>>) -> Result<f64, BenchError> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Writes all dirty pages out, so that one contender's writes are not the next one's waiting.
pub async fn sync() -> Result<(), BenchError> {
    blocking(|| {
        nix::unistd::sync();
        Ok(())
    })
    .await
}

/// Empties the kernel's page cache, for everybody on the machine.
pub async fn drop_page_cache() -> Result<(), BenchError> {
    sync().await?;
    let file = "/proc/sys/vm/drop_caches";
    blocking(move || std::fs::write(file, "1").map_err(BenchError::io(format!("cannot write to {file}")))).await
}

/// Runs what waits for the disk beside the tasks of the proxies.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BenchError> + Send + 'static,
) -> Result<T, BenchError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(BenchError::Unexpected(error.to_string())))
}

/// Memory of a process that is its own, in MiB.
pub fn anonymous_memory_mib(pid: u32) -> Result<f64, BenchError> {
    let file = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&file).map_err(BenchError::io(file.clone()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| BenchError::Unexpected(format!("{file} tells no RssAnon")))
}

/// Processes that want to run, of the last minute.
pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

pub fn about(scale: &Scale, quick: bool, load_before: Option<f64>, took: Duration) -> Value {
    let first_line = |file: &str| std::fs::read_to_string(file).ok()?.lines().next().map(|line| line.trim().to_owned());
    let model = || {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    json!({
        "bench": "fs",
        "version": env!("CARGO_PKG_VERSION"),
        "optimized": !cfg!(debug_assertions),
        "quick": quick,
        "scale": scale,
        "took_seconds": took.as_secs(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": model(),
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "memory": first_line("/proc/meminfo"),
        // The bench itself brings the second one to about 2.
        "load_before": load_before,
        "load_after": load(),
    })
}
