//! The embedded engine as a process: starts, answers, enforces rights, ends. Runs the real engine.

mod common;

use common::{config, engine};

#[tokio::test]
async fn starts_answers_and_stops_without_a_trace() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = config(dir.path());
    let engine = engine(&config).await;
    let pid = engine.pid();
    let version = engine.sql().query("SELECT version()").await.expect("version");
    assert!(version.starts_with("26."), "{version}");
    engine.stop(std::time::Duration::from_secs(10)).await.expect("stops");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
