//! Who gets in and who does not, with real processes: controllers with TLS, moorctl, agents that join.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use moorhouse_base::ports;
use moorhouse_tests::binaries::{binary, output, stderr, stdout};
use moorhouse_tests::warehouse::{TestWarehouse, succeed};
use tempfile::TempDir;

const LONGEST: Duration = Duration::from_secs(60);

/// Ends with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A controller with TLS on an embedded store, its CA, and certificates for whoever asks.
struct Guarded {
    home: TempDir,
    port: u16,
    _controller: Running,
}

impl Guarded {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let [port, metrics] = ports::free::<2>().expect("free ports");
        succeed(moorctl().args(["cert", "init", "--warehouse", "prod"]).arg(home.path().join("ca")));
        issue(&home.path().join("ca"), &home.path().join("controller"), "controller", "c", "90d");
        let log = std::fs::File::create(home.path().join("controller.log")).expect("a log");
        let child = Command::new(binary("moorhouse-controller"))
            .args(["--listen", &format!("127.0.0.1:{port}"), "--metrics", &format!("127.0.0.1:{metrics}")])
            .args(["--store", &format!("embedded:{}", home.path().join("catalog.redb").display())])
            .args(["--objects", &format!("file://{}", home.path().join("objects").display())])
            .args(["--group", "etl", "--shards", "2"])
            .arg("--tls")
            .arg(home.path().join("controller"))
            .arg("--issuer")
            .arg(home.path().join("ca"))
            .env("MOORHOUSE_LOG", "debug")
            .stderr(log.try_clone().expect("a handle"))
            .stdout(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("starts");
        let guarded = Self { home, port, _controller: Running(child) };
        guarded.certificate("admin", "ada", "90d");
        let until = Instant::now() + LONGEST;
        while !guarded.ask("ada", &["status"]).status.success() {
            assert!(Instant::now() < until, "the controller does not serve: {}", guarded.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        guarded
    }

    fn certificate(&self, role: &str, name: &str, lifetime: &str) -> PathBuf {
        let dir = self.home.path().join(name);
        issue(&self.home.path().join("ca"), &dir, role, name, lifetime);
        dir
    }

    fn ask(&self, holder: &str, arguments: &[&str]) -> Output {
        self.ask_at("https", holder, arguments)
    }

    fn ask_at(&self, scheme: &str, holder: &str, arguments: &[&str]) -> Output {
        let mut command = moorctl();
        command.args(["--controller", &format!("{scheme}://127.0.0.1:{}", self.port)]).args(arguments);
        if scheme == "https" {
            command.arg("--certificate").arg(self.home.path().join(holder));
        }
        output(&mut command)
    }

    fn must(&self, holder: &str, arguments: &[&str]) -> String {
        let done = self.ask(holder, arguments);
        assert!(done.status.success(), "{arguments:?}: {}", stderr(&done));
        stdout(&done)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("controller.log")).unwrap_or_default()
    }

    fn audit(&self) -> serde_json::Value {
        serde_json::from_str(&self.must("ada", &["audit", "--output", "json"])).expect("JSON")
    }
}

fn moorctl() -> Command {
    let mut command = Command::new(binary("moorctl"));
    command.args(["--dir", "/nowhere/moorhouse"]);
    for name in ["MOORHOUSE_CONTROLLER", "MOORHOUSE_TLS", "MOORHOUSE_DEV_DIR", "MOORHOUSE_INSECURE_PLAINTEXT"] {
        command.env_remove(name);
    }
    command
}

fn issue(ca: &Path, dir: &Path, role: &str, name: &str, lifetime: &str) {
    let mut command = moorctl();
    command.args(["cert", "issue", "--role", role, "--name", name, "--for", lifetime]);
    succeed(command.arg("--ca").arg(ca).arg(dir));
}

#[test]
fn certificates_decide() {
    let guarded = Guarded::start();
    guarded.certificate("viewer", "vic", "90d");
    guarded.must("vic", &["status"]);
    let before = guarded.must("ada", &["status", "--output", "json"]);
    let denied = guarded.ask("vic", &["node", "remove", "etl-0"]);
    assert_eq!(denied.status.code(), Some(2), "{}", stderr(&denied));
    assert!(stderr(&denied).contains("takes the role admin; the certificate is of viewer/vic"), "{}", stderr(&denied));
    for arguments in [&["token", "create", "--group", "etl"][..], &["audit"], &["node", "drain", "etl-0"]] {
        assert_eq!(guarded.ask("vic", arguments).status.code(), Some(2), "{arguments:?}");
    }
    guarded.certificate("gateway", "edge", "90d");
    assert!(stderr(&guarded.ask("edge", &["status"])).contains("takes the role admin or viewer"));

    let plain = guarded.ask_at("http", "", &["status"]);
    assert!(stderr(&plain).contains("TLS only"), "{}", stderr(&plain));

    let other_ca = guarded.home.path().join("other-ca");
    succeed(moorctl().args(["cert", "init", "--warehouse", "prod"]).arg(&other_ca));
    issue(&other_ca, &guarded.home.path().join("eve"), "admin", "eve", "90d");
    let foreign = guarded.ask("eve", &["status"]);
    assert!(stderr(&foreign).contains("not of our CA"), "{}", stderr(&foreign));

    guarded.certificate("admin", "old", "1s");
    let until = Instant::now() + LONGEST;
    loop {
        let asked = guarded.ask("old", &["status"]);
        // A connection that is open when its certificate ends is cut without a word; the next one is told why.
        if !asked.status.success() && stderr(&asked).contains("expired") {
            break;
        }
        assert!(Instant::now() < until, "an expired certificate is let in: {}", stderr(&asked));
    }
    assert_eq!(guarded.must("ada", &["status", "--output", "json"]), before, "nothing has changed");
    assert_eq!(guarded.audit(), serde_json::json!([]), "what was denied changed nothing");
}

#[test]
fn a_token_lets_one_node_in_and_stands_in_the_audit() {
    let guarded = Guarded::start();
    let token = guarded.must("ada", &["token", "create", "--group", "etl", "--ttl", "1h"]).trim().to_owned();
    assert!(token.starts_with("mht1."), "{token}");
    let agents = ["new-a", "new-b"].map(|name| (name, joining(&guarded, name, &token)));
    let joined = agents.map(|(name, agent)| {
        let said = agent.wait_with_output().expect("ends");
        let has = guarded.home.path().join(name).join("tls.crt").exists();
        // The winner is let in with its certificate, and ends for its ports; the other is told why it does not get one.
        let why = if has { "leaves no room for 2 shards" } else { "has used it" };
        assert!(stderr(&said).contains(why), "{}", stderr(&said));
        has
    });
    assert_eq!(joined.iter().filter(|joined| **joined).count(), 1, "exactly one wins: {joined:?}");
    let nodes: serde_json::Value =
        serde_json::from_str(&guarded.must("ada", &["node", "list", "--output", "json"])).expect("JSON");
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes}");
    let tokens: serde_json::Value =
        serde_json::from_str(&guarded.must("ada", &["token", "list", "--output", "json"])).expect("JSON");
    assert_eq!(tokens[0]["state"], "used", "{tokens}");

    let audit = guarded.audit();
    let said: Vec<(&str, &str, &str)> = audit
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().expect("text");
            (text("identity"), text("action"), text("outcome"))
        })
        .collect();
    assert!(said.contains(&("admin/ada", "create_join_token", "done")), "{audit}");
    assert!(said.contains(&("nameless", "join", "done")), "{audit}");
    assert!(said.contains(&("nameless", "join", "failed")), "{audit}");
    assert!(audit[0]["from"].as_str().expect("text").starts_with("127.0.0.1:"), "{audit}");

    let secret = token.split('.').nth(1).expect("the secret");
    for place in [guarded.log(), tokens.to_string(), audit.to_string()] {
        assert!(!place.contains(secret), "the token shows");
    }
    let revoked = guarded.must("ada", &["token", "create", "--group", "etl", "--output", "json"]);
    let revoked: serde_json::Value = serde_json::from_str(&revoked).expect("JSON");
    guarded.must("ada", &["token", "revoke", revoked["id"].as_str().expect("an id")]);
    let agent = joining(&guarded, "new-c", revoked["token"].as_str().expect("a token"));
    let ended = agent.wait_with_output().expect("ends");
    assert!(stderr(&ended).contains("it was revoked"), "{}", stderr(&ended));
    assert!(!guarded.home.path().join("new-c").join("tls.crt").exists());
}

/// An agent that joins and registers, and then ends, because there is no room for its router's ports.
fn joining(guarded: &Guarded, name: &str, token: &str) -> Child {
    let [listen, metrics, http, native] = ports::free::<4>().expect("free ports");
    let place = guarded.home.path().join(format!("{name}-node"));
    Command::new(binary("moorhouse-agent"))
        .args(["--controller", &format!("https://127.0.0.1:{}", guarded.port)])
        .args(["--name", name, "--group", "etl", "--listen", &format!("127.0.0.1:{listen}")])
        .args(["--metrics", &format!("127.0.0.1:{metrics}"), "--engine-http-port", &http.to_string()])
        .args(["--engine-native-port", &native.to_string(), "--router-port-base", "65535"])
        .arg("--data")
        .arg(place.join("data"))
        .arg("--mount")
        .arg(place.join("mount"))
        .arg("--tls")
        .arg(guarded.home.path().join(name))
        .env("MOORHOUSE_JOIN_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts")
}

#[test]
fn plaintext_over_the_network_is_refused_at_the_start() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let objects = format!("file://{}", home.path().display());
    let controller = |more: &[&str]| {
        let mut command = Command::new(binary("moorhouse-controller"));
        command.args([
            "--listen",
            "0.0.0.0:1",
            "--metrics",
            "127.0.0.1:0",
            "--store",
            "memory:",
            "--objects",
            &objects,
        ]);
        output(command.args(more))
    };
    let refused = controller(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--tls DIR") && stderr(&refused).contains("--insecure-plaintext"));
    let mut far = moorctl();
    let refused = output(far.args(["--controller", "http://controller.example:7400", "status"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("plaintext over the network"), "{}", stderr(&refused));
}

#[test]
fn a_whole_warehouse_speaks_tls_and_keeps_its_secrets() {
    let warehouse = TestWarehouse::start(&["--tls"]);
    let home = &warehouse.home;
    let ask = |sql: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "-u", &format!("admin:{}", warehouse.password), "--data-binary", sql]);
        succeed(command.arg(format!("http://127.0.0.1:{}/", warehouse.http_port(0))))
    };
    ask("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a");
    ask("INSERT INTO t SELECT number FROM numbers(1000)");
    assert_eq!(ask("SELECT count() FROM t").trim(), "1000");
    ask("DROP TABLE t");
    let audit = home.json(&["audit"]);
    let rows = audit.as_array().expect("rows");
    let dropped = rows.iter().find(|row| row["action"] == "drop_table").unwrap_or_else(|| panic!("no drop in {audit}"));
    assert_eq!((&dropped["identity"], &dropped["user"]), (&"gateway/gateway".into(), &"admin".into()), "{audit}");
    assert_eq!((&dropped["target"], &dropped["outcome"]), (&"default.t".into(), &"done".into()), "{audit}");

    let hash = output(Command::new("sh").args(["-c", &format!("printf %s {} | sha256sum", warehouse.password)]));
    let hash = stdout(&hash).split_whitespace().next().expect("a hash").to_owned();
    let mut seen = audit.to_string();
    let listings = [
        &["status"][..],
        &["node", "list"],
        &["shard", "list"],
        &["part", "list"],
        &["token", "list"],
        &["cache", "stat"],
    ];
    for listing in listings {
        seen.push_str(&home.json(listing).to_string());
    }
    for log in std::fs::read_dir(home.path().join("logs")).expect("logs").flatten() {
        seen.push_str(&std::fs::read_to_string(log.path()).unwrap_or_default());
    }
    for secret in [warehouse.password.as_str(), &hash, "PRIVATE KEY"] {
        assert!(!seen.contains(secret), "a secret shows in a log or a listing");
    }
}
