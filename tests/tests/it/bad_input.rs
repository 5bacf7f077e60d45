//! Wrong input gets exit code 2 and one line (for the servers: one a mistake) that says what to do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorhouse_base::ports::free_row;
use moorhouse_tests::binaries::{binary, output, stderr, stdout};
use moorhouse_tests::servers::Garage;
use moorhouse_tests::warehouse::{DevHome, TestWarehouse, succeed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Exit code 2, and exactly one line on stderr with all of `words`.
fn assert_refused(command: &mut Command, words: &[&str]) {
    let said = refusal(command);
    assert_eq!(said.trim_end().lines().count(), 1, "{command:?} says one line: {said}");
    for word in words {
        assert!(said.contains(word), "{command:?} does not say '{word}': {said}");
    }
}

fn refusal(command: &mut Command) -> String {
    let done = output(command);
    let said = stderr(&done);
    assert_eq!(done.status.code(), Some(2), "{command:?}: {said}{}", stdout(&done));
    said
}

fn controller(home: &DevHome, port: u16, store: &str, objects: &str) -> Command {
    let mut command = Command::new(binary("moorhouse-controller"));
    let address = |port: u16| format!("127.0.0.1:{port}");
    command.args(["--listen", &address(port), "--metrics", &address(port + 1), "--store", store, "--objects", objects]);
    command.args(["--shards", "2", "--user", &format!("admin:{}", "0".repeat(64)), "--group", "etl"]);
    command.current_dir(home.scratch());
    command
}

fn embedded(home: &DevHome, name: &str) -> String {
    format!("embedded:{}", home.scratch().join(name).display())
}

fn directory(home: &DevHome, name: &str) -> String {
    format!("file://{}", home.scratch().join(name).display())
}

#[test]
fn moorctl_refuses_wrong_flags() {
    let home = DevHome::new();
    assert_refused(&mut home.moorctl(&["dev", "up", "--group", "etl"]), &["NAME=N", "--help"]);
    assert_refused(&mut home.moorctl(&["dev", "up", "--shards", "0"]), &["--shards", "1..=1024"]);
    assert_refused(&mut home.moorctl(&["node", "list", "--nonsense"]), &["--nonsense"]);
    assert_refused(&mut home.moorctl(&["part", "list", "--table", "x", "--controller", "nonsense"]), &["nonsense"]);
    assert_refused(&mut home.moorctl(&["status"]), &["holds no dev warehouse", "moorctl dev up"]);
    let unreachable = ["status", "--controller", "http://127.0.0.1:1"];
    assert_refused(&mut home.moorctl(&unreachable), &["no controller answers", "--controller"]);
    assert!(!home.path().exists(), "a refused command leaves nothing behind");
}

#[test]
fn a_machine_without_fuse_is_refused() {
    let home = DevHome::new();
    // In a mount namespace of its own, /dev is empty.
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(binary("moorctl")).arg("--dir").arg(home.path());
    assert_refused(command.args(["dev", "up"]), &["/dev/fuse", "modprobe fuse"]);
}

#[test]
fn a_missing_or_old_engine_is_refused() {
    let home = DevHome::new();
    let mut missing = home.up_command(&[]);
    let without_clickhouse = home.scratch().display().to_string();
    assert_refused(
        missing.env("MOORHOUSE_CHDB", "/nowhere/libchdb.so").env("PATH", without_clickhouse),
        &["no ClickHouse", "/nowhere/libchdb.so", "make setup"],
    );
    let old = home.scratch().join("clickhouse");
    fs::write(&old, "#!/bin/sh\necho 'ClickHouse local version 24.3.1.1 (official build).'\n").expect("writable");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).expect("it is mine");
    let said = refusal(&mut home.up_command(&["--engine", &old.display().to_string()]));
    assert!(said.contains("24.3") && said.contains("25.8"), "{said}");
    home.assert_nothing_left();
}

#[test]
fn a_taken_port_is_named() {
    let home = DevHome::new();
    let port = home.port_base + 10;
    let _taken = TcpListener::bind(("127.0.0.1", port)).expect("free until now");
    assert_refused(&mut home.up_command(&[]), &[&port.to_string(), "HTTP for group etl", "--port-base"]);
}

#[test]
fn the_demo_removes_no_directory_of_others() {
    let home = DevHome::new();
    fs::create_dir(home.path()).expect("the scratch directory is writable");
    fs::write(home.path().join("precious"), "data").expect("writable");
    let mut demo = Command::new(binary("moorhouse-demo"));
    demo.arg("--dir").arg(home.path()).arg("--out").arg(home.scratch().join("demo.json"));
    assert_refused(&mut demo, &["not empty", "--dir"]);
    assert!(home.path().join("precious").exists());
}

#[test]
fn servers_name_every_mistake_at_once() {
    for (server, flags) in [
        ("moorhouse-controller", vec!["--listen", "nowhere", "--store", "nonsense"]),
        ("moorhouse-agent", vec!["--controller", "http://127.0.0.1:1", "--cache-bytes", "many"]),
        ("moorhouse-gateway", vec!["--listen-group", "etl"]),
    ] {
        let said = refusal(Command::new(binary(server)).args(flags).env_clear());
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn unreachable_stores_are_refused() {
    let home = DevHome::new();
    let objects = directory(&home, "objects");
    let etcd = refusal(&mut controller(&home, free_row(2).expect("free ports"), "etcd://127.0.0.1:1/x", &objects));
    assert!(etcd.contains("127.0.0.1:1"), "it names the address: {etcd}");
    let bucket = "s3://bucket/x?endpoint=http://127.0.0.1:1&region=here&allow_http=true";
    let mut unreachable = controller(&home, free_row(2).expect("free ports"), &embedded(&home, "a.redb"), bucket);
    let said = refusal(unreachable.envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")]));
    assert!(said.contains("bucket") || said.contains("127.0.0.1:1"), "{said}");
    let garage = Garage::start();
    let absent = garage.objects_url("x").replace("moorhouse-test", "another-bucket");
    let mut absent = controller(&home, free_row(2).expect("free ports"), &embedded(&home, "b.redb"), &absent);
    let said = refusal(absent.envs(garage.credentials()));
    assert!(said.contains("another-bucket"), "it names the bucket: {said}");
}

/// A controller that ends with this value.
struct RunningController(Child);

impl RunningController {
    fn start(mut command: Command, metrics_port: u16) -> Self {
        let child = command.stderr(Stdio::null()).spawn().expect("the controller starts");
        let mut running = Self(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", metrics_port)).is_err() {
            assert!(
                running.0.try_wait().expect("my child").is_none() && Instant::now() < deadline,
                "it does not come up"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("it runs");
        assert!(self.0.wait().expect("my child").success(), "SIGTERM is a clean stop");
    }
}

impl Drop for RunningController {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn objects_of_another_warehouse_are_refused() {
    let home = DevHome::new();
    let objects = directory(&home, "objects");
    let port = free_row(2).expect("free ports");
    RunningController::start(controller(&home, port, &embedded(&home, "first.redb"), &objects), port + 1).stop();
    let said = refusal(&mut controller(&home, port, &embedded(&home, "second.redb"), &objects));
    assert!(said.contains("warehouse"), "{said}");
    let mut reshaped = controller(&home, port, &embedded(&home, "first.redb"), &objects);
    let said = refusal(reshaped.args(["--shards", "4"]).env_remove("MOORHOUSE_SHARDS"));
    assert!(said.contains("shards"), "{said}");
}

#[test]
fn running_twice_is_refused_and_a_crash_is_cleaned_up() {
    let warehouse = TestWarehouse::start(&[]);
    let home = &warehouse.home;
    assert_refused(&mut home.up_command(&[]), &["running", "moorctl dev down"]);
    assert_refused(&mut home.moorctl(&["node", "add", "--group", "nonsense"]), &["nonsense", "etl, bi"]);
    assert_refused(&mut home.moorctl(&["dev", "kill", "etl-7"]), &["etl-7", "etl-0, bi-0"]);
    let said = refusal(&mut home.moorctl(&["part", "list", "--table", "no-dot"]));
    assert!(said.contains("DATABASE.TABLE"), "{said}");

    for node in ["etl-0", "bi-0"] {
        home.run(&["dev", "kill", node]);
    }
    kill_all(home);
    assert!(home.mounts() > 0, "a killed agent leaves its mount behind");
    let again = output(&mut home.up_command(&[]));
    assert!(again.status.success(), "{}{}", stderr(&again), home.logs());
    assert!(stderr(&again).contains("still mounted from a crash"), "it says so: {}", stderr(&again));
    let url = format!("http://127.0.0.1:{}/?query=SELECT%201", warehouse.http_port(0));
    let mut curl = Command::new("curl");
    curl.args(["-sSf", &url, "--user", &format!("admin:{}", warehouse.password)]);
    assert_eq!(succeed(&mut curl), "1\n");
    home.run(&["dev", "down"]);
    home.assert_nothing_left();
    assert!(home.run(&["dev", "down"]).contains("stopped"), "stopping twice is harmless");
}

fn kill_all(home: &DevHome) {
    let state = fs::read_to_string(home.path().join("dev.json")).expect("there is a state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("it is JSON");
    for run in state["running"].as_object().expect("processes by name").values() {
        let pid = i32::try_from(run["pid"].as_i64().expect("a pid")).expect("pids fit");
        // The nodes are dead already.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    std::thread::sleep(Duration::from_millis(200));
}
