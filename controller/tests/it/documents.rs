//! Documents over gRPC, and what bad input gets: a typed status with the reason and what to do.

use moorhouse_catalog::{BlobId, DdlStatement, DdlToken, PartChange, ShardId, TableId, TableShard};
use moorhouse_proto::documents_client::DocumentsClient;
use moorhouse_proto::{
    DocumentPut, GetHistoryRequest, ListAuditRequest, ListDocumentsRequest, PutDocumentsRequest, SnapshotRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Cluster, create_table, sql, staged_part};

async fn client(cluster: &Cluster) -> DocumentsClient<Channel> {
    let url = format!("http://{}", cluster.running.address);
    DocumentsClient::connect(url).await.expect("connects")
}

fn put(kind: &str, name: &str, from_version: u64, body: &str) -> DocumentPut {
    let (kind, name, body) = (kind.to_owned(), name.to_owned(), body.to_owned());
    DocumentPut { kind, name, from_version, body, ..DocumentPut::default() }
}

async fn send(cluster: &Cluster, changes: Vec<DocumentPut>) -> Result<u64, Status> {
    let reply = client(cluster).await.put_documents(PutDocumentsRequest { changes }).await?.into_inner();
    Ok(reply.documents.last().map_or(0, |document| document.version))
}

#[tokio::test]
async fn documents_reach_every_node_and_show_no_hash() {
    let cluster = Cluster::start().await;
    let (etl, bi) = (cluster.node("etl-0", "etl").await, cluster.node("bi-0", "bi").await);
    let hash = "c".repeat(64);
    let ada = format!("{{\"password_sha256\":\"{hash}\",\"roles\":[\"reader\"]}}");
    let reader = r#"{"grants":[{"database":"default","access":["select"]}]}"#;
    let of_bi = put("engine", "group/bi", 0, r#"{"profile":{"max_threads":2}}"#);
    let changes = vec![put("role", "reader", 0, reader), put("user", "ada", 0, &ada), of_bi];
    assert_eq!(send(&cluster, changes).await.expect("kept and obeyed"), 1);
    for (node, threads) in [(&etl, None), (&bi, Some("2"))] {
        let access = node.view().access;
        assert_eq!((access.users[0].name.as_str(), access.users[0].grants.len()), ("ada", 1));
        assert_eq!(access.users[0].password_sha256_hex.expose(), hash);
        assert_eq!(access.settings.get("max_threads").map(String::as_str), threads);
    }
    let listed = client(&cluster).await.list_documents(ListDocumentsRequest::default()).await.expect("lists");
    let text = format!("{listed:?}");
    assert!(text.contains("ada") && text.contains("***") && !text.contains(&hash), "{text}");

    // What was shown can be sent back: the hash stays.
    let shown = r#"{"password_sha256":"***","roles":[]}"#;
    assert_eq!(send(&cluster, vec![put("user", "ada", 1, shown)]).await.expect("kept"), 2);
    assert_eq!(etl.view().access.users[0].password_sha256_hex.expose(), hash);
    let restore = DocumentPut { restore: 1, ..put("user", "ada", 2, "") };
    assert_eq!(send(&cluster, vec![restore]).await.expect("rolled back"), 3);
    assert_eq!(etl.view().access.users[0].grants.len(), 1);
    let of = GetHistoryRequest { kind: "user".to_owned(), name: "ada".to_owned() };
    let history = client(&cluster).await.get_history(of).await.expect("is there").into_inner().documents;
    assert_eq!(history.iter().map(|document| document.version).collect::<Vec<_>>(), [1, 2, 3]);

    let url = format!("http://{}", cluster.running.address);
    let mut security = moorhouse_proto::security_client::SecurityClient::connect(url).await.expect("connects");
    let audit = security.list_audit(ListAuditRequest { since_ms: 0, at_most: 0 }).await.expect("lists").into_inner();
    assert_eq!(audit.entries.iter().filter(|entry| entry.action == "put_documents").count(), 3);
    assert!(!format!("{audit:?}").contains(&hash));

    // A new leader, and a node that comes later, have them too.
    let cluster = cluster.restart().await;
    let late = cluster.node("etl-1", "etl").await;
    assert_eq!(late.view().access.users.len(), 1);
}

#[tokio::test]
async fn bad_input_gets_a_status_with_the_reason() {
    let cluster = Cluster::start().await;
    let node = cluster.node("etl-0", "etl").await;
    let engine = |from, threads: u64| {
        put("engine", "warehouse", from, &format!("{{\"profile\":{{\"max_threads\":{threads}}}}}"))
    };
    send(&cluster, vec![engine(0, 1)]).await.expect("kept");
    send(&cluster, vec![engine(1, 2)]).await.expect("kept");
    let refused = |status: Result<u64, Status>| status.map(drop).expect_err("refused");
    let cases = [
        // A stale version, with the current one.
        (refused(send(&cluster, vec![engine(1, 3)]).await), Code::Aborted, "is at version 2 now"),
        (refused(send(&cluster, vec![put("user", "ada", 0, "{")]).await), Code::InvalidArgument, "no JSON"),
        (
            refused(send(&cluster, vec![put("users", "ada", 0, "{}")]).await),
            Code::InvalidArgument,
            "there are engine, user",
        ),
        (refused(send(&cluster, vec![put("user", "a b", 0, "{}")]).await), Code::InvalidArgument, "letters, digits"),
        // Over a limit: which.
        (
            refused(send(&cluster, vec![put("role", "r", 0, &format!("\"{}\"", "x".repeat(70_000)))]).await),
            Code::InvalidArgument,
            "at most 65536 bytes",
        ),
        (
            refused(send(&cluster, vec![DocumentPut { restore: 9, ..engine(2, 0) }]).await),
            Code::NotFound,
            "no version 9",
        ),
    ];
    for (status, code, words) in cases {
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(words), "{status:?}");
    }

    // Fenced, with the current epoch.
    cluster.create_table("t").await.expect("made");
    let at = TableShard { table: node.view().tables[0].id, shard: ShardId(1) };
    let added = vec![staged_part("all_1_1_0", BlobId::random(), "etl-0")];
    let epoch = node.epoch(1);
    let change = PartChange { added, ..PartChange::default() };
    let fenced = node.commit(&cluster, at, epoch + 5, change).await.expect_err("not its epoch");
    assert_eq!(fenced.code(), Code::FailedPrecondition);
    let current = format!("is at epoch {epoch}, not {}", epoch + 5);
    assert!(fenced.message().starts_with("fenced:") && fenced.message().contains(&current), "{fenced:?}");

    // Unknown table; name taken; one token for two statements.
    let nowhere = SnapshotRequest { table: TableId::random().to_wire().into(), shard: 0 };
    assert_eq!(cluster.controller().await.get_snapshot(nowhere).await.expect_err("unknown").code(), Code::NotFound);
    assert!(cluster.ddl(create_table("t", false)).await.expect_err("taken").starts_with("Code: 57."));
    let token = DdlToken::random();
    cluster.ddl_under(create_table("u", false), token).await.expect("made");
    let (statement, token) = (
        DdlStatement::DropTable { database: sql("default"), name: sql("u"), if_exists: false },
        token.to_wire().into(),
    );
    let statement_record = moorhouse_catalog::codec::encode(&statement).into();
    let request = moorhouse_proto::SubmitDdlRequest { statement_record, token };
    let refused = cluster.controller().await.submit_ddl(request).await.expect_err("another statement");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}
