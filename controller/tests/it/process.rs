//! The binary: what it says and how it ends.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn controller(directory: &Path, listen: &str, metrics: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorhouse-controller"));
    command.args(["--listen", listen, "--metrics", metrics]);
    command.arg("--store").arg(format!("embedded:{}", directory.join("catalog.redb").display()));
    command.arg("--objects").arg(format!("file://{}", directory.join("objects").display()));
    command.stderr(Stdio::piped());
    command
}

fn free_port() -> String {
    format!("127.0.0.1:{}", moorhouse_base::ports::free_row(1).expect("a free port"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn healthy(metrics: &str) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(metrics) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.starts_with("HTTP/1.1 200")
}

/// Ends the process however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serves_until_sigterm_and_ends_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let (listen, metrics) = (free_port(), free_port());
    let mut running = Running(controller(directory.path(), &listen, &metrics).spawn().expect("starts"));
    let begun = Instant::now();
    while !healthy(&metrics) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never became healthy");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = controller(directory.path(), &free_port(), &free_port()).output().expect("runs");
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second).contains("in use by another process"), "{}", text(&second));

    let pid = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    let ended = running.0.wait().expect("ends");
    assert_eq!(ended.code(), Some(0));

    let other_shards = controller(directory.path(), &listen, &metrics).args(["--shards", "3"]).output().expect("runs");
    assert_eq!(other_shards.status.code(), Some(2));
    assert!(text(&other_shards).contains("was made with 16 shards, not 3"), "{}", text(&other_shards));
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).expect("bound");
    for (listen, metrics, flag) in [(&taken.1, &free_port(), "--listen"), (&free_port(), &taken.1, "--metrics")] {
        let output = controller(directory.path(), listen, metrics).output().expect("runs");
        assert_eq!(output.status.code(), Some(2));
        let text = text(&output);
        assert!(text.contains(&taken.1) && text.contains(flag) && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn an_etcd_that_is_not_there_is_said_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let nobody = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorhouse-controller"));
    command.args(["--listen", &free_port(), "--metrics", &free_port(), "--store", &format!("etcd://{nobody}/x")]);
    let output = command.arg("--objects").arg(format!("file://{}", directory.path().display())).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains(&nobody) && text(&output).lines().count() == 1, "{}", text(&output));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorhouse-controller"));
    let output = command.args(["--listen", "x", "--store", "y", "--objects", "z"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output).lines().count(), 3, "{}", text(&output));
}
