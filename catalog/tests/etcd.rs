//! The etcd store where etcd is not a friendly one: TLS and users, a member that dies, a quota that is used up, and a way to
//! it that loses connections.

mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moorhouse_catalog::entry::Write;
use moorhouse_catalog::store::etcd::EtcdStore;
use moorhouse_catalog::store::{Leadership, Store, StoreAccess, StoreError};
use servers::{Certificates, Etcd, PATIENCE, Shape};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(2);

fn put(key: &str, value: impl Into<Vec<u8>>) -> Write {
    Write::Put { key: key.as_bytes().to_vec(), value: value.into() }
}

async fn value(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    store.range(key.as_bytes()).await.expect("answers").into_iter().next().map(|(_, value)| value)
}

/// Until it is taken: what the store does not confirm is settled and repeated.
async fn insist(store: &dyn Store, leader: &Leadership, writes: Vec<Write>) {
    let begun = Instant::now();
    loop {
        match store.commit(leader, writes.clone()).await {
            Ok(()) => return,
            Err(StoreError::Unavailable(text)) => assert!(begun.elapsed() < PATIENCE, "{text}"),
            Err(other) => panic!("{other}"),
        }
        while let Err(error) = store.settle(leader).await {
            assert!(begun.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn etcd_with_tls_and_users_lets_in_who_has_the_papers() {
    let home = tempfile::tempdir().expect("a directory");
    let certificates = Certificates::make(&home.path().join("tls"));
    let client = certificates.client();
    let shape = Shape { certificates: Some(certificates), ..Shape::default() };
    let etcd = Etcd::start(&shape).await;
    let tls = StoreAccess { tls: Some(client.clone()), ..StoreAccess::default() };
    drop(etcd.store(&tls).await);
    let file = |name: &str| client.join(name).display().to_string();
    let papers = [("--cacert", file("ca.crt")), ("--cert", file("tls.crt")), ("--key", file("tls.key"))];
    let papers: Vec<&str> = papers.iter().flat_map(|(flag, file)| [*flag, file.as_str()]).collect();
    for command in [
        "user add root:rootpw",
        "user add ada:hush",
        "user add moorhouse:unused",
        "role add writer",
        "role grant-permission writer readwrite wh/ --prefix=true",
        "user grant-role root root",
        "user grant-role ada writer",
        "user grant-role moorhouse writer",
        "auth enable",
    ] {
        etcd.ctl(command, &papers).unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    // By the certificate's name.
    let by_certificate = etcd.store(&tls).await;
    let leader = by_certificate.acquire_leadership("certificate", TTL).await.expect("leads");
    by_certificate.commit(&leader, vec![put("a", "1")]).await.expect("commits");
    by_certificate.resign(leader).await;
    // By user and password, which change while it runs.
    let password = home.path().join("password");
    std::fs::write(&password, "wrong").expect("writes");
    let named =
        StoreAccess { tls: Some(client.clone()), user: Some("ada".to_owned()), password_file: Some(password.clone()) };
    let refused = etcd.refusal(&named).await;
    assert!(refused.contains("--store-password-file") && !refused.contains("wrong"), "{refused}");
    std::fs::write(&password, "hush\n").expect("writes");
    let store = etcd.store(&named).await;
    let leader = store.acquire_leadership("password", TTL).await.expect("leads");
    store.commit(&leader, vec![put("a", "2")]).await.expect("commits");
    assert_eq!(value(&store, "a").await, Some(b"2".to_vec()));

    // Without a certificate, with a foreign CA, in plaintext: not at all.
    let bare = home.path().join("bare");
    std::fs::create_dir(&bare).expect("a directory");
    std::fs::copy(client.join("ca.crt"), bare.join("ca.crt")).expect("copies");
    let foreign = Certificates::make(&home.path().join("foreign"));
    for access in [
        StoreAccess { tls: Some(bare), ..StoreAccess::default() },
        StoreAccess { tls: Some(foreign.client()), ..StoreAccess::default() },
        StoreAccess::default(),
    ] {
        let refused = etcd.refusal(&access).await;
        assert!(refused.contains("--store") && !refused.contains('\n'), "{refused}");
    }

    // New certificate and new password, in the same places.
    let root = [&papers[..], &["--user", "root:rootpw"]].concat();
    etcd.ctl("user delete moorhouse", &root).expect("deletes");
    let certificates = shape.certificates.as_ref().expect("made");
    certificates.issue("client/tls", "/CN=renewed");
    std::fs::write(&password, "louder").expect("writes");
    etcd.ctl("user delete ada", &root).expect("deletes");
    etcd.ctl("user add ada:louder", &root).expect("adds");
    etcd.ctl("user grant-role ada writer", &root).expect("grants");
    let begun = Instant::now();
    while store.commit(&leader, vec![put("a", "3")]).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the new password is never taken into use");
        tokio::time::sleep(Duration::from_millis(100)).await;
        if store.settle(&leader).await == Err(StoreError::Deposed) {
            break;
        }
    }
    drop(leader);
    let leader = store.acquire_leadership("again", TTL);
    drop(tokio::time::timeout(PATIENCE, leader).await.expect("in time").expect("leads with the new papers"));
}

#[tokio::test]
async fn etcd_that_loses_a_member_goes_on() {
    let mut etcd = Etcd::start(&Shape { members: 3, ..Shape::default() }).await;
    let store = etcd.store(&StoreAccess::default()).await;
    let leader = tokio::time::timeout(PATIENCE, store.acquire_leadership("a", Duration::from_secs(5)));
    let leader = leader.await.expect("in time").expect("leads");
    for round in 0..20u32 {
        if round == 5 {
            etcd.kill(1);
        }
        insist(&store, &leader, vec![put("round", round.to_be_bytes())]).await;
    }
    // A candidate waits through it too.
    let standby = etcd.store(&StoreAccess::default()).await;
    let waiting = tokio::spawn(async move {
        let leader = standby.acquire_leadership("b", TTL).await.expect("leads");
        insist(&standby, &leader, vec![put("round", "standby")]).await;
    });
    assert_eq!(value(&store, "round").await, Some(19u32.to_be_bytes().to_vec()));
    drop(leader);
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("no panic");
    assert_eq!(value(&store, "round").await, Some(b"standby".to_vec()));
}

#[tokio::test]
async fn etcd_whose_quota_is_used_up_goes_on_when_there_is_room_again() {
    let quota = ["--quota-backend-bytes".to_owned(), (4 << 20).to_string()];
    let etcd = Etcd::start(&Shape { more: quota.to_vec(), ..Shape::default() }).await;
    let store = etcd.store(&StoreAccess::default()).await;
    let leader = store.acquire_leadership("a", Duration::from_secs(5)).await.expect("leads");
    store.commit(&leader, vec![put("small", "1")]).await.expect("room");
    let mut refusal = None;
    for round in 0..100u8 {
        if let Err(error) = store.commit(&leader, vec![put("large", vec![round; 300_000])]).await {
            refusal = Some(error);
            break;
        }
    }
    let Some(StoreError::Full(text)) = refusal else { panic!("{refusal:?}") };
    assert!(text.contains("alarm disarm") && text.contains("defragment"), "{text}");
    let large: Vec<Write> = (0..3).map(|n| put(&format!("piece/{n}"), vec![0; 1 << 20])).collect();
    assert!(matches!(store.commit(&leader, large).await, Err(StoreError::Full(_))), "a large one neither");
    assert!(matches!(store.commit(&leader, vec![put("small", "2")]).await, Err(StoreError::Full(_))));
    assert_eq!(value(&store, "small").await, Some(b"1".to_vec()), "reads go on");
    assert!(!store.range(b"piece/").await.expect("answers").iter().any(|_| true), "nothing is half done");

    let status = etcd.ctl("endpoint status -w json", &[]).expect("answers");
    let revision = status.split("\"revision\":").nth(1).and_then(|rest| rest.split([',', '}']).next()).expect("there");
    etcd.ctl(&format!("compact {revision}"), &[]).expect("compacts");
    etcd.ctl("defrag", &[]).expect("defragments");
    etcd.ctl("alarm disarm", &[]).expect("disarms");
    store.commit(&leader, vec![put("small", "3")]).await.expect("the same leader goes on");
    assert_eq!(value(&store, "small").await, Some(b"3".to_vec()));
}

#[tokio::test]
async fn a_journal_takes_only_what_its_mark_counts() {
    let etcd = Etcd::start(&Shape::default()).await;
    let store = etcd.store(&StoreAccess::default()).await;
    drop(store.acquire_leadership("a", TTL).await.expect("leads"));
    let piece = |key: &str| -> Vec<u8> {
        let field = |f: &[u8]| [&(f.len() as u32).to_be_bytes()[..], f].concat();
        [field(b"put"), field(key.as_bytes()), field(b"v")].concat()
    };
    let mut client = etcd_client::Client::connect([&etcd.endpoints[0]], None).await.expect("connects");
    client.put("wh/journal/00000000", piece("new"), None).await.expect("puts");
    client.put("wh/journal/00000001", piece("of-an-earlier-one"), None).await.expect("puts");
    client.put("wh/journal-commit", "1", None).await.expect("puts");
    drop(store.acquire_leadership("b", TTL).await.expect("leads"));
    let keys = store.range(b"").await.expect("answers");
    assert_eq!(keys, [(b"new".to_vec(), b"v".to_vec())]);
}

/// SplitMix64, as the simulation's.
struct Chance(AtomicU64);

impl Chance {
    fn below(&self, bound: u64) -> u64 {
        let step = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let z = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A way to etcd that is cut, in either direction, after some bytes.
async fn faulty_way(to: String, chance: Arc<Chance>, calm: tokio_util::sync::CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (to, chance, calm) = (to.clone(), Arc::clone(&chance), calm.clone());
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(&to).await else { return };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                // Answers are cut more often than requests: the outcome is unknown then.
                let requests = pass(client_read, server_write, 200_000, &chance, &calm);
                let answers = pass(server_read, client_write, 6_000, &chance, &calm);
                tokio::select! { () = requests => {} () = answers => {} }
            });
        }
    });
    address
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    longest: u64,
    chance: &Chance,
    calm: &tokio_util::sync::CancellationToken,
) {
    let mut left = chance.below(longest) as usize;
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || (read > left && !calm.is_cancelled()) {
            return;
        }
        left = left.saturating_sub(read);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Candidates with bad ways to one etcd. Each leader writes its term and a number to many keys at once: whatever is cut, the
/// keys are always equal, what was acknowledged is there, and nothing of an older term appears after a newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_torn_or_taken_back_on_a_bad_way() {
    let etcd = Etcd::start(&Shape::default()).await;
    let judge = Arc::new(etcd.store(&StoreAccess::default()).await);
    for seed in 1..=3 {
        let calm = tokio_util::sync::CancellationToken::new();
        let newest = Arc::new(std::sync::Mutex::new((0u64, 0u64)));
        let mut candidates = Vec::new();
        for name in ["a", "b", "c"] {
            let chance = Arc::new(Chance(AtomicU64::new(seed * 1_000 + u64::from(name.as_bytes()[0]))));
            let way = faulty_way(etcd.endpoints[0].clone(), Arc::clone(&chance), calm.clone()).await;
            let (calm, newest) = (calm.clone(), Arc::clone(&newest));
            candidates.push(tokio::spawn(candidate(name, way, seed, chance, calm, newest)));
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        calm.cancel();
        for candidate in candidates {
            tokio::time::timeout(PATIENCE, candidate).await.expect("comes to rest").expect("no rule is broken");
        }
        let leader = tokio::time::timeout(PATIENCE, judge.acquire_leadership("judge", TTL));
        let leader = leader.await.expect("in time").expect("leads");
        let (seen, acknowledged) = (read_state(&*judge, seed).await.expect("answers"), *newest.lock().expect("sound"));
        assert!(seen >= acknowledged, "seed {seed}: {acknowledged:?} was acknowledged, {seen:?} is there");
        println!("seed {seed}: came to term {} number {}", seen.0, seen.1);
        assert!(acknowledged.1 > 0, "seed {seed}: something was acknowledged");
        drop(leader);
    }
}

/// The term and number that every key has.
async fn read_state(store: &dyn Store, seed: u64) -> Result<(u64, u64), StoreError> {
    let records = store.range(format!("{seed}/").as_bytes()).await?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('.').to_owned();
    let values: std::collections::BTreeSet<String> = records.iter().map(|(_, value)| text(value)).collect();
    assert!(values.len() <= 1, "seed {seed}: a commit is torn: {values:?}");
    let Some(value) = values.first() else { return Ok((0, 0)) };
    let (term, number) = value.split_once(' ').expect("term and number");
    Ok((term.parse().expect("a term"), number.parse().expect("a number")))
}

async fn candidate(
    name: &'static str,
    way: String,
    seed: u64,
    chance: Arc<Chance>,
    calm: tokio_util::sync::CancellationToken,
    newest: Arc<std::sync::Mutex<(u64, u64)>>,
) {
    while !calm.is_cancelled() {
        let Ok(store) = EtcdStore::connect(std::slice::from_ref(&way), "wh").await else { continue };
        let led = tokio::select! {
            led = store.acquire_leadership(name, TTL) => led,
            () = calm.cancelled() => return,
        };
        let Ok(leader) = led else { continue };
        lead(&store, &leader, seed, &chance, &calm, &newest).await;
        // Some let go, some just end: their lease has to run out.
        if chance.below(2) == 0 {
            store.resign(leader).await;
        }
    }
}

/// Until it is deposed, or has enough.
async fn lead(
    store: &EtcdStore,
    leader: &Leadership,
    seed: u64,
    chance: &Chance,
    calm: &tokio_util::sync::CancellationToken,
    newest: &std::sync::Mutex<(u64, u64)>,
) {
    let mut known = None;
    for _ in 0..chance.below(60) {
        if calm.is_cancelled() {
            return;
        }
        let before = match known {
            Some(state) => state,
            None => match (store.settle(leader).await, read_state(store, seed).await) {
                (Err(StoreError::Deposed), _) => return,
                (Ok(()), Ok(state)) => {
                    assert!(state.0 <= leader.term(), "a leader of term {} finds {state:?}", leader.term());
                    state
                }
                _ => continue,
            },
        };
        let state = (leader.term(), before.1 + 1);
        // A third of the commits take the journal. The same keys each time, so that a torn one shows.
        let padding = if chance.below(3) == 0 { 30_000 } else { 10 };
        let value = format!("{} {}{}", state.0, state.1, ".".repeat(padding));
        let writes = (0..60).map(|key| put(&format!("{seed}/{key:03}"), value.clone())).collect();
        match store.commit(leader, writes).await {
            Ok(()) => {
                known = Some(state);
                let mut newest = newest.lock().expect("sound");
                *newest = (*newest).max(state);
            }
            Err(StoreError::Deposed) => return,
            Err(_) => known = None,
        }
    }
}
