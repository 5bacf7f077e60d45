//! The sweeper's and fsck's judgement of what lies in the bucket and on the nodes.

use std::path::PathBuf;
use std::time::SystemTime;

use moorhouse_catalog::*;
use moorhouse_proto::*;
use tonic::Code;

use crate::harness::{Cluster, TestNode, eventually, staged_part};

const HOUR_MS: u64 = 3_600_000;

struct Scene {
    cluster: Cluster,
    node: TestNode,
    at: TableShard,
}

impl Scene {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let node = cluster.node("etl-0", "etl").await;
        cluster.create_table("t").await.expect("made");
        let at = TableShard { table: node.view().tables[0].id, shard: ShardId(0) };
        Self { cluster, node, at }
    }

    /// A name that an uploader minted three hours ago: twice the time in which it may be referred to.
    fn old_name(&self) -> ObjectKey {
        self.name_at(now_ms() - 3 * HOUR_MS)
    }

    /// By an uploader whose clock is a minute ahead: this cluster keeps what is doomed for no time at all, so that a name of
    /// this moment would be too old already.
    fn fresh_name(&self) -> ObjectKey {
        self.name_at(now_ms() + 60_000)
    }

    fn name_at(&self, ms: u64) -> ObjectKey {
        minted::mint(self.at, ms, uuid::Uuid::new_v4()).expect("valid")
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        let place = self.cluster.config.objects_text.trim_start_matches("file://");
        PathBuf::from(place).join(key.as_str())
    }

    fn put(&self, key: &ObjectKey, content: &[u8]) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, content).expect("written");
    }

    /// A part whose one file of five bytes is in this object.
    async fn store(&self, part: &str, key: &ObjectKey, crc32c: u32) -> Result<u64, tonic::Status> {
        let mut part = staged_part(part, BlobId::random(), "etl-0");
        part.files[0].location = Location::Stored { object: key.clone(), offset: 0, crc32c };
        self.node.add(&self.cluster, self.at, part).await
    }

    async fn fsck(&self, deep: bool, repair: bool) -> (Vec<FsckFinding>, FsckSummary) {
        let events = self.cluster.admin().await.fsck(FsckRequest { deep, repair }).await.expect("begins");
        let mut events = events.into_inner();
        let (mut findings, mut summary) = (Vec::new(), None);
        while let Some(event) = events.message().await.expect("goes on") {
            findings.extend(event.finding);
            summary = event.summary.or(summary);
        }
        findings.sort_by(|a, b| a.kind.cmp(&b.kind));
        (findings, summary.expect("ends with a summary"))
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

#[tokio::test]
async fn only_what_nobody_can_refer_to_is_swept() {
    let scene = Scene::start().await;
    let (orphan, fresh, referred) = (scene.old_name(), scene.fresh_name(), scene.fresh_name());
    let foreign = ObjectKey::new("parts/of/another/making").expect("valid");
    for key in [&orphan, &fresh, &referred, &foreign] {
        scene.put(key, b"bytes");
    }
    scene.store("all_1_1_0", &referred, 0).await.expect("commits");
    let late = scene.store("all_2_2_0", &orphan, 0).await.expect_err("too late for a first time");
    assert_eq!(late.code(), Code::InvalidArgument, "{late}");
    // A new leader looks at once.
    let paths = [&orphan, &fresh, &referred, &foreign].map(|key| scene.path(key));
    let cluster = scene.cluster.restart().await;
    eventually("the orphan is gone", || async { !paths[0].exists() }).await;
    assert_eq!(paths[1..].iter().map(|path| path.exists()).collect::<Vec<_>>(), [true; 3]);
    drop(cluster);
}

#[tokio::test]
async fn fsck_finds_what_does_not_agree_and_repairs_what_it_can() {
    let scene = Scene::start().await;
    let (right, missing, short) = (scene.fresh_name(), scene.fresh_name(), scene.fresh_name());
    let (damaged, orphan) = (scene.fresh_name(), scene.old_name());
    scene.put(&right, b"bytes");
    scene.put(&short, b"byt");
    scene.put(&damaged, b"bytez");
    let sum = crc32c::crc32c(b"bytes");
    scene.store("all_1_1_0", &right, sum).await.expect("commits");
    let there = BlobId::random();
    scene.node.script.lock().expect("no panic").blobs = vec![there];
    scene.node.add(&scene.cluster, scene.at, staged_part("all_5_5_0", there, "etl-0")).await.expect("commits");
    assert_eq!(scene.fsck(true, false).await.0, [], "all is well");

    scene.store("all_2_2_0", &missing, sum).await.expect("commits");
    scene.store("all_3_3_0", &short, sum).await.expect("commits");
    scene.store("all_4_4_0", &damaged, sum).await.expect("commits");
    let lost = staged_part("all_6_6_0", BlobId::random(), "etl-0");
    scene.node.add(&scene.cluster, scene.at, lost).await.expect("commits");
    scene.put(&orphan, b"bytes");
    let kinds = |findings: &[FsckFinding]| findings.iter().map(|f| f.kind.clone()).collect::<Vec<_>>();
    let (findings, summary) = scene.fsck(false, false).await;
    assert_eq!(kinds(&findings), ["lost", "missing", "orphan", "short"]);
    assert_eq!((summary.findings, summary.repaired, summary.bytes_read), (4, 0, 0));
    assert!(scene.path(&orphan).exists(), "nothing is changed unasked");
    let (findings, summary) = scene.fsck(true, true).await;
    assert_eq!(kinds(&findings), ["damaged", "lost", "missing", "orphan", "short"]);
    assert_eq!((summary.findings, summary.repaired), (5, 1));
    assert!(!scene.path(&orphan).exists());
    scene.node.fail("check", Some(tonic::Status::unavailable("not now")));
    let (findings, _) = scene.fsck(false, false).await;
    assert_eq!(kinds(&findings), ["missing", "short", "unproven"], "a node that does not answer proves nothing");
}

/// A part that two nodes keep: each copy is looked at, and what is left when a node is away is said.
#[tokio::test]
async fn fsck_looks_at_the_copies_too() {
    let scene = Scene::start().await;
    let keeper = scene.cluster.node("bi-0", "bi").await;
    let (blob, lonely) = (BlobId::random(), BlobId::random());
    let mut part = staged_part("all_1_1_0", blob, "etl-0");
    part.copies = vec![keeper.name.clone()];
    scene.node.add(&scene.cluster, scene.at, part).await.expect("commits");
    let kinds = async |deep| {
        let (findings, _) = scene.fsck(deep, false).await;
        findings.into_iter().map(|found| (found.kind, found.detail)).collect::<Vec<_>>()
    };
    scene.node.script.lock().expect("no panic").blobs = vec![blob, lonely];
    let found = kinds(false).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == "copy" && found[0].1.contains("node bi-0, which keeps a copy for etl-0"), "{found:?}");

    keeper.script.lock().expect("no panic").blobs = vec![blob];
    assert_eq!(kinds(true).await, [], "all is well");
    keeper.script.lock().expect("no panic").spoilt = vec![blob];
    assert_eq!(kinds(false).await, [], "only a deep look reads them");
    let found = kinds(true).await;
    assert!(found.len() == 1 && found[0].0 == "damaged" && found[0].1.contains("the copy on bi-0"), "{found:?}");

    scene.node.script.lock().expect("no panic").blobs = vec![lonely];
    let found = kinds(false).await;
    assert!(found.len() == 1 && found[0].0 == "lost" && found[0].1.contains("node bi-0 has a copy"), "{found:?}");
    scene.node.add(&scene.cluster, scene.at, staged_part("all_2_2_0", lonely, "etl-0")).await.expect("commits");
    scene.node.fail("check", Some(tonic::Status::unavailable("not now")));
    let found = kinds(false).await;
    let told = "2 files are staged there, 1 of them only there, and it does not answer";
    assert!(found.len() == 1 && found[0].0 == "unproven" && found[0].1.contains(told), "{found:?}");
}
