//! What every store must do, run against each: memory, embedded, and a real etcd that the test starts.
//! A missing etcd fails the test.

mod servers;

use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use moorhouse_catalog::entry::Write;
use moorhouse_catalog::store::embedded::EmbeddedStore;
use moorhouse_catalog::store::etcd::EtcdStore;
use moorhouse_catalog::store::memory::{Failure, MemoryStore};
use moorhouse_catalog::store::{Leadership, Store, StoreAccess, StoreError};

const TTL: Duration = Duration::from_secs(2);

fn put(key: &str, value: impl Into<Vec<u8>>) -> Write {
    Write::Put { key: key.as_bytes().to_vec(), value: value.into() }
}
fn delete(key: &str) -> Write {
    Write::Delete { key: key.as_bytes().to_vec() }
}
async fn lead(store: &dyn Store) -> Leadership {
    store.acquire_leadership("test", TTL).await.expect("leads")
}
async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let records = store.range(prefix.as_bytes()).await.expect("answers");
    records.into_iter().map(|(key, _)| String::from_utf8(key).expect("text")).collect()
}

/// The suite. `depose` takes the leadership away from outside; `store` must be empty.
async fn conforms<D: Future<Output = ()>>(store: Arc<dyn Store>, depose: impl Fn() -> D) {
    let leader = lead(&*store).await;
    reads_back_in_order(&*store, &leader).await;
    commits_whole_whatever_the_size(&*store, &leader).await;
    second_leader_waits(Arc::clone(&store), leader).await;
    deposed_leader_cannot_write(&*store, depose).await;
}

async fn reads_back_in_order(store: &dyn Store, leader: &Leadership) {
    assert_eq!(keys(store, "").await, [""; 0]);
    store.commit(leader, vec![]).await.expect("nothing is fine");
    let writes = vec![put("b/2", "two"), put("b/1", "one"), put("a/ü/x", ""), put("b", "b"), put("c", [0, 255])];
    store.commit(leader, writes).await.expect("commits");
    assert_eq!(keys(store, "").await, ["a/ü/x", "b", "b/1", "b/2", "c"]);
    assert_eq!(keys(store, "b/").await, ["b/1", "b/2"]);
    assert_eq!(store.range(b"c").await.expect("answers"), [(b"c".to_vec(), vec![0, 255])]);
    for (from, to, expected) in [
        ("", "b/", &["a/ü/x", "b"][..]),
        ("b/", "b/2", &["b/1"]),
        ("b/2", "", &["b/2", "c"]),
        ("d", "", &[]),
        ("", "", &["a/ü/x", "b", "b/1", "b/2", "c"]),
    ] {
        let found = store.range_between(from.as_bytes(), to.as_bytes()).await.expect("answers");
        let found: Vec<String> = found.into_iter().map(|(key, _)| String::from_utf8(key).expect("text")).collect();
        assert_eq!(found, expected, "from {from:?} to {to:?}");
    }
    store.commit(leader, vec![put("b/1", "uno"), delete("b/2"), delete("absent")]).await.expect("commits");
    assert_eq!(store.range(b"b/").await.expect("answers"), [(b"b/1".to_vec(), b"uno".to_vec())]);
    store.settle(leader).await.expect("settles");
    store.commit(leader, vec![put("b/3", "three")]).await.expect("commits after settling");
}

async fn commits_whole_whatever_the_size(store: &dyn Store, leader: &Leadership) {
    let many: Vec<Write> = (0..1_000).map(|i| put(&format!("many/{i:04}"), vec![b'x'; 300])).collect();
    store.commit(leader, many).await.expect("many operations");
    assert_eq!(keys(store, "many/").await.len(), 1_000);
    let large: Vec<Write> = (0..6).map(|i| put(&format!("large/{i}"), vec![b'y'; 1 << 20])).collect();
    store.commit(leader, large).await.expect("many bytes");
    let read = store.range(b"large/").await.expect("answers");
    assert!(read.len() == 6 && read.iter().all(|(_, value)| value.len() == 1 << 20));
    let gone = (0..1_000).map(|i| delete(&format!("many/{i:04}"))).chain((0..6).map(|i| delete(&format!("large/{i}"))));
    store.commit(leader, gone.collect()).await.expect("many deletes");
    assert_eq!(keys(store, "many/").await.len() + keys(store, "large/").await.len(), 0);
}

async fn second_leader_waits(store: Arc<dyn Store>, leader: Leadership) {
    let second = tokio::spawn({
        let store = Arc::clone(&store);
        async move { lead(&*store).await }
    });
    tokio::time::sleep(TTL * 2).await;
    assert!(!second.is_finished(), "a leadership that is kept alive outlives its ttl");
    store.commit(&leader, vec![put("kept", "alive")]).await.expect("still leads");
    let first_term = leader.term();
    drop(leader);
    let second = tokio::time::timeout(TTL * 3, second).await.expect("takes over").expect("no panic");
    assert!(second.term() > first_term);
    store.commit(&second, vec![delete("kept")]).await.expect("the new leader writes");
}

async fn deposed_leader_cannot_write<D: Future<Output = ()>>(store: &dyn Store, depose: impl Fn() -> D) {
    let old = lead(store).await;
    depose().await;
    let new = tokio::time::timeout(TTL * 3, lead(store)).await.expect("vacant");
    assert_eq!(store.commit(&old, vec![put("x", "old")]).await, Err(StoreError::Deposed));
    assert_eq!(store.settle(&old).await, Err(StoreError::Deposed));
    tokio::time::timeout(TTL * 3, old.lost()).await.expect("is told");
    store.settle(&new).await.expect("the new leader settles");
    store.commit(&new, vec![put("x", "new")]).await.expect("the new leader writes");
    assert_eq!(store.range(b"x").await.expect("answers"), [(b"x".to_vec(), b"new".to_vec())]);
}

#[tokio::test]
async fn memory_conforms() {
    let store = MemoryStore::new();
    conforms(Arc::new(store.clone()), || async { store.depose() }).await;
}

#[tokio::test]
async fn embedded_conforms() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Arc::new(EmbeddedStore::open(&directory.path().join("new/catalog.redb")).expect("opens"));
    conforms(store.clone(), || async { store.depose() }).await;
}

#[tokio::test]
async fn etcd_conforms() {
    let etcd = Etcd::start().await;
    let store = Arc::new(EtcdStore::connect(std::slice::from_ref(&etcd.endpoint), "wh/one").await.expect("connects"));
    conforms(store, || async {
        let mut client = etcd.client().await;
        let leader = client.get("wh/one/leader", None).await.expect("answers");
        client.lease_revoke(leader.kvs()[0].lease()).await.expect("revokes");
    })
    .await;
    let mut client = etcd.client().await;
    let strangers = client.get("wh/two", Some(etcd_client::GetOptions::new().with_prefix())).await.expect("answers");
    assert!(strangers.kvs().is_empty());
}

#[tokio::test]
async fn etcd_with_tls_and_users_conforms() {
    let home = tempfile::tempdir().expect("a directory");
    let certificates = servers::Certificates::make(home.path());
    let access = StoreAccess { tls: Some(certificates.client()), ..StoreAccess::default() };
    let shape = servers::Shape { certificates: Some(certificates), ..servers::Shape::default() };
    let etcd = servers::Etcd::start(&shape).await;
    drop(etcd.store(&access).await);
    let file = |name: &str| home.path().join("client").join(name).display().to_string();
    let papers = [("--cacert", file("ca.crt")), ("--cert", file("tls.crt")), ("--key", file("tls.key"))];
    let papers: Vec<&str> = papers.iter().flat_map(|(flag, file)| [*flag, file.as_str()]).collect();
    for command in [
        "user add root:rootpw",
        "user add moorhouse:unused",
        "role add writer",
        "role grant-permission writer readwrite wh/ --prefix=true",
        "user grant-role root root",
        "user grant-role moorhouse writer",
        "auth enable",
    ] {
        etcd.ctl(command, &papers).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    let root = [&papers[..], &["--user", "root:rootpw"]].concat();
    let store = Arc::new(etcd.store(&access).await);
    conforms(store, || async {
        let leases = etcd.ctl("lease list", &root).expect("lists");
        for lease in leases.lines().skip(1) {
            etcd.ctl(&format!("lease revoke {lease}"), &root).expect("revokes");
        }
    })
    .await;
}

#[tokio::test]
async fn memory_fails_as_told() {
    let store = MemoryStore::new();
    let leader = lead(&store).await;
    for (failure, there) in [(Failure::Lost, 0), (Failure::Unanswered, 1)] {
        store.fail_next(failure);
        let told = store.commit(&leader, vec![put("x", "y")]).await;
        assert!(matches!(told, Err(StoreError::Unavailable(_))));
        assert_eq!(keys(&store, "x").await.len(), there);
    }
}

#[tokio::test]
async fn embedded_keeps_its_records_and_refuses_a_second_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("catalog.redb");
    let store = EmbeddedStore::open(&path).expect("opens");
    let leader = lead(&store).await;
    store.commit(&leader, vec![put("a", "1")]).await.expect("commits");
    let error = EmbeddedStore::open(&path).err().expect("the file is locked").to_string();
    assert!(error.contains("in use by another process") && !error.contains('\n'), "{error}");
    drop((leader, store));
    let store = EmbeddedStore::open(&path).expect("opens again");
    assert_eq!(keys(&store, "").await, ["a"]);
}

#[tokio::test]
async fn etcd_that_is_not_there_is_named() {
    let endpoint = format!("127.0.0.1:{}", free_ports()[0]);
    let error =
        EtcdStore::connect(std::slice::from_ref(&endpoint), "p").await.err().expect("nobody answers").to_string();
    assert!(error.contains(&endpoint) && error.contains("--store") && !error.contains('\n'), "{error}");
}

/// A large commit that a dying leader broke off happens whole if its mark was put, and not at all if not.
#[tokio::test]
async fn etcd_finishes_or_drops_a_broken_off_commit() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let store = EtcdStore::connect(std::slice::from_ref(&etcd.endpoint), "p").await.expect("connects");
    drop(lead(&store).await);
    // kind, key, value, each with its length: the journal's own encoding.
    let piece = |key: &str| -> Vec<u8> {
        let field = |f: &[u8]| [&(f.len() as u32).to_be_bytes()[..], f].concat();
        [field(b"put"), field(key.as_bytes()), field(b"v")].concat()
    };
    client.put("p/journal/00000000", piece("unmarked"), None).await.expect("puts");
    drop(lead(&store).await);
    assert_eq!(keys(&store, "").await, [""; 0]);
    client.put("p/journal/00000000", piece("one"), None).await.expect("puts");
    client.put("p/journal/00000001", piece("two"), None).await.expect("puts");
    client.put("p/journal-commit", "2", None).await.expect("puts");
    let leader = lead(&store).await;
    assert_eq!(keys(&store, "").await, ["one", "two"]);
    let left = client.get("p/journal", Some(etcd_client::GetOptions::new().with_prefix())).await.expect("answers");
    assert!(left.kvs().is_empty());
    store.commit(&leader, vec![delete("one")]).await.expect("goes on");
}

struct Etcd {
    process: Child,
    endpoint: String,
    _directory: tempfile::TempDir,
}

impl Etcd {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [client, peer] = free_ports();
        let mut command = Command::new(if Path::new("/usr/bin/etcd").exists() { "/usr/bin/etcd" } else { "etcd" });
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        command.arg("--data-dir").arg(directory.path()).args(["--log-level", "error", "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let process = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is needed for this test: run scripts/setup.sh (Debian's etcd-server)");
        let endpoint = client.trim_start_matches("http://").to_owned();
        let etcd = Self { process, endpoint, _directory: directory };
        for _ in 0..100 {
            if let Ok(mut client) = Client::connect([&etcd.endpoint], None).await
                && client.status().await.is_ok()
            {
                return etcd;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd does not answer at {}", etcd.endpoint);
    }

    async fn client(&self) -> Client {
        Client::connect([&self.endpoint], None).await.expect("connects")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_ports() -> [u16; 2] {
    moorhouse_base::ports::free().expect("free ports")
}
