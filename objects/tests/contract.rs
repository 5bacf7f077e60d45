//! The promises of [`Objects`], each performed on a directory and on a real S3 server (Garage), and the errors that a
//! person meets when the address, the bucket or the credentials are wrong.

mod garage;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use bytes::Bytes;
use garage::Garage;
use moorhouse_objects::{
    MULTIPART_ABOVE_BYTES, Objects, ObjectsError, ObjectsUrl, PIECE_BYTES, Piece, S3Credentials, metrics,
};
use uuid::Uuid;

fn url(text: &str) -> ObjectsUrl {
    text.parse().expect("the test's URL is right")
}

async fn open_directory(dir: &std::path::Path) -> Objects {
    Objects::open(&url(&format!("file://{}", dir.display()))).await.expect("opens a directory")
}

/// Everything that holds on any store.
async fn keeps_its_promises(objects: &Objects) {
    puts_and_reads_ranges(objects).await;
    lists_whole_segments(objects).await;
    lists_page_by_page(objects).await;
    deletes_also_what_is_absent(objects).await;
    refuses_unusable_keys(objects).await;
    is_claimed_once(objects).await;
}

async fn puts_and_reads_ranges(objects: &Objects) {
    let report = objects.put("parts/a/one", vec![Bytes::from_static(b"hello "), Bytes::from_static(b"world")]).await;
    assert_eq!(report.expect("puts").puts, 1);
    assert_eq!(objects.get_range("parts/a/one", 0, 11).await.expect("reads"), "hello world");
    assert_eq!(objects.get_range("parts/a/one", 4, 3).await.expect("reads"), "o w");
    assert_eq!(objects.get_range("parts/a/one", 4, 0).await.expect("reads nothing"), "");
    for (offset, len, got) in [(6, 6, 5), (11, 1, 0), (500, 2, 0)] {
        let error = objects.get_range("parts/a/one", offset, len).await.expect_err("ends before");
        assert!(matches!(error, ObjectsError::Short { found, .. } if found == got), "{error}");
    }
    objects.put("parts/a/one", vec![Bytes::from_static(b"replaced")]).await.expect("puts again");
    assert_eq!(objects.get_range("parts/a/one", 0, 8).await.expect("reads"), "replaced");
    objects.put("parts/a/empty", vec![]).await.expect("puts an empty object");
    let error = objects.get_range("parts/a/none", 0, 1).await.expect_err("is absent");
    assert!(matches!(&error, ObjectsError::NotFound { key, .. } if key == "parts/a/none"), "{error}");
}

async fn lists_whole_segments(objects: &Objects) {
    objects.put("parts/ab/two", vec![Bytes::from_static(b"12")]).await.expect("puts");
    let a = objects.list("parts/a").await.expect("lists");
    assert_eq!(a, [("parts/a/empty".to_owned(), 0), ("parts/a/one".to_owned(), 8)]);
    assert_eq!(objects.list("parts/a/").await.expect("lists"), a);
    let all = objects.list("").await.expect("lists");
    assert!(all.contains(&("parts/ab/two".to_owned(), 2)), "{all:?}");
    assert!(all.is_sorted());
    assert_eq!(objects.list("nothing/here").await.expect("lists nothing"), []);
}

/// Pages of any size give what one listing gives, in order, each key once.
async fn lists_page_by_page(objects: &Objects) {
    for name in ["c/3", "a/1", "b", "a/2"] {
        objects.put(&format!("pages/{name}"), vec![Bytes::from_static(b"x")]).await.expect("puts");
    }
    let whole = objects.list("pages").await.expect("lists");
    assert_eq!(whole.len(), 4);
    for limit in 1..=5 {
        let mut paged: Vec<(String, u64)> = Vec::new();
        loop {
            let after = paged.last().map(|(key, _)| key.clone());
            let page = objects.list_page("pages", after.as_deref(), limit).await.expect("lists a page");
            let last = page.len() < limit;
            paged.extend(page);
            if last {
                break;
            }
        }
        assert_eq!(paged, whole, "pages of {limit}");
    }
    assert_eq!(objects.size("pages/b").await.expect("asks"), Some(1));
    assert_eq!(objects.size("pages/none").await.expect("asks"), None);
}

async fn deletes_also_what_is_absent(objects: &Objects) {
    objects.delete("parts/ab/two").await.expect("deletes");
    objects.delete("parts/ab/two").await.expect("absent is fine");
    assert_eq!(objects.list("parts/ab").await.expect("lists"), []);
}

async fn refuses_unusable_keys(objects: &Objects) {
    for key in ["", "/a", "a/", "a//b", "../a", "a/./b"] {
        let error = objects.put(key, vec![]).await.expect_err(key);
        assert!(matches!(error, ObjectsError::BadKey { .. }), "{error}");
    }
}

async fn is_claimed_once(objects: &Objects) {
    let (mine, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
    objects.claim(mine).await.expect("claims");
    objects.claim(mine).await.expect("claims its own again");
    let error = objects.claim(theirs).await.expect_err("is another's");
    assert!(matches!(error, ObjectsError::OtherWarehouse { found, .. } if found == mine), "{error}");
    objects.put("moorhouse.json", vec![Bytes::from_static(b"{\"format\": 9")]).await.expect("puts");
    let error = objects.claim(mine).await.expect_err("is unreadable");
    assert!(matches!(error, ObjectsError::BadMarker { .. }), "{error}");
    objects.delete("moorhouse.json").await.expect("deletes");
}

/// A body that shows where a piece went astray.
fn large_body(bytes: usize) -> Bytes {
    let mut body = Vec::with_capacity(bytes);
    while body.len() < bytes {
        body.extend_from_slice(&(body.len() as u64).to_le_bytes());
    }
    body.truncate(bytes);
    body.into()
}

async fn puts_in_pieces(objects: &Objects) {
    let bytes = MULTIPART_ABOVE_BYTES as usize + 5;
    let body = large_body(bytes);
    let before = metrics::REQUESTS.with_label_values(&["PUT"]).get();
    let report = objects.put("large", vec![body.slice(..1_000_003), body.slice(1_000_003..)]).await.expect("puts");
    assert_eq!(report.puts, 5 + 2, "four full pieces, one of 5 bytes, begin and completion");
    assert!(metrics::REQUESTS.with_label_values(&["PUT"]).get() >= before + report.puts);
    for offset in [0, PIECE_BYTES - 100, MULTIPART_ABOVE_BYTES - 95] {
        let found = objects.get_range("large", offset, 100).await.expect("reads");
        assert_eq!(found, body.slice(offset as usize..offset as usize + 100));
    }
    assert_eq!(objects.list("").await.expect("lists"), [("large".to_owned(), bytes as u64)]);
}

/// An upload goes on with what has been sent, whoever goes on; one that is given up leaves nothing.
async fn goes_on_with_pieces(objects: &Objects) {
    let bytes = MULTIPART_ABOVE_BYTES + 5;
    let body = large_body(bytes as usize);
    let chunks = || vec![body.slice(..1_000_003), body.slice(1_000_003..)];
    assert!(objects.takes_pieces_of(bytes) && !objects.takes_pieces_of(MULTIPART_ABOVE_BYTES));
    let mut begun = objects.begin("later", bytes).await.expect("begins");
    let first = begun.missing(chunks()).into_iter().nth(2).expect("five pieces");
    let sent = objects.send_piece("later", &begun, first).await.expect("sends");
    begun.note(sent);
    let unfinished = objects.unfinished().await.expect("lists");
    assert_eq!(unfinished.iter().map(|u| u.key.as_str()).collect::<Vec<_>>(), ["later"]);
    assert_eq!(objects.size("later").await.expect("asks"), None, "nothing is visible yet");

    let missing = begun.missing(chunks());
    assert_eq!(missing.iter().map(Piece::bytes).collect::<Vec<_>>(), [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 5]);
    for piece in missing {
        let sent = objects.send_piece("later", &begun, piece).await.expect("sends");
        begun.note(sent);
    }
    objects.complete("later", &begun).await.expect("completes");
    objects.forget_note("later").await.expect("forgets");
    assert_eq!(objects.unfinished().await.expect("lists"), []);
    assert_eq!(objects.get_range("later", 0, bytes).await.expect("reads"), body);
    let error = objects.complete("later", &begun).await.expect_err("it has ended");
    assert!(matches!(error, ObjectsError::NotFound { .. }), "{error}");

    let mut vain = objects.begin("vain", bytes).await.expect("begins");
    let piece = vain.missing(chunks()).remove(0);
    vain.note(objects.send_piece("vain", &vain, piece.clone()).await.expect("sends"));
    let unfinished = objects.unfinished().await.expect("lists");
    objects.give_up_unfinished(&unfinished[0]).await.expect("gives up");
    objects.give_up("vain", &vain).await.expect("there is nothing left of it, which is fine");
    let error = objects.send_piece("vain", &vain, piece).await.expect_err("it was given up");
    assert!(matches!(error, ObjectsError::NotFound { .. }), "{error}");
    assert_eq!(objects.unfinished().await.expect("lists"), []);
    assert_eq!(objects.size("vain").await.expect("asks"), None);
}

#[tokio::test]
async fn a_directory_keeps_the_promises() {
    let dir = tempfile::tempdir().expect("a directory");
    keeps_its_promises(&open_directory(&dir.path().join("made/when absent")).await).await;
    puts_in_pieces(&open_directory(&dir.path().join("large")).await).await;
}

#[tokio::test]
async fn racing_warehouses_cannot_both_claim_a_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let objects = open_directory(dir.path()).await;
    let claims = (0..8).map(|n| {
        let objects = objects.clone();
        async move { objects.claim(Uuid::from_u128(n)).await }
    });
    let outcomes = futures::future::join_all(claims).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
}

#[tokio::test]
async fn an_unusable_directory_is_told_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), "in the way").expect("writes");
    let text = format!("file://{}/file/below", dir.path().display());
    let error = Objects::open(&url(&text)).await.expect_err("a file is in the way");
    assert!(matches!(error, ObjectsError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("--objects"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garage_keeps_the_promises() {
    let garage = Garage::start();
    let open = async |prefix: &str| {
        let opened = Objects::open_with_credentials(&url(&garage.url(prefix)), garage.credentials()).await;
        opened.expect("opens the bucket")
    };
    keeps_its_promises(&open("/some/prefix").await).await;
    puts_in_pieces(&open("/large").await).await;
    goes_on_with_pieces(&open("/large/later").await).await;

    let whole_bucket = open("").await.list("").await.expect("lists the bucket");
    assert!(whole_bucket.iter().all(|(key, _)| key.starts_with("some/prefix/") || key.starts_with("large/")));
    assert!(!whole_bucket.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn garage_errors_name_the_remedy() {
    let garage = Garage::start();
    let open = async |text: &str, credentials: S3Credentials| {
        let error = Objects::open_with_credentials(&url(text), credentials).await.expect_err("is wrong");
        assert!(error.to_string().contains("--objects"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        error
    };
    let good = garage.credentials();

    let error = open(&garage.url("").replace("//warehouse", "//nowhere"), good.clone()).await;
    assert!(matches!(&error, ObjectsError::NoBucket { bucket, .. } if bucket == "nowhere"), "{error}");

    garage.make_bucket_of_nobody("foreign");
    let error = open(&garage.url("").replace("//warehouse", "//foreign"), good.clone()).await;
    assert!(matches!(error, ObjectsError::Denied { .. }), "{error}");

    let wrong_secret = S3Credentials { secret_access_key: "cd".repeat(32), ..good.clone() };
    let error = open(&garage.url(""), wrong_secret).await;
    assert!(matches!(error, ObjectsError::Denied { .. }), "{error}");
    assert!(!error.to_string().contains(&"cd".repeat(32)), "{error}");

    let unknown_key = S3Credentials { access_key_id: "GK0000000000000000000000ff".to_owned(), ..good.clone() };
    let error = open(&garage.url(""), unknown_key).await;
    assert!(matches!(error, ObjectsError::Denied { .. }), "{error}");

    let error = open(&garage.url("").replace("region=garage", "region=mars"), good).await;
    assert!(matches!(error, ObjectsError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_told_within_seconds() {
    let any = S3Credentials { access_key_id: "key".to_owned(), secret_access_key: "secret".to_owned() };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("its address");
    let closed = {
        let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
        gone.local_addr().expect("its address")
    };
    for address in [silent, closed] {
        let started = Instant::now();
        let text = format!("s3://bucket/p?endpoint=http://{address}&allow_http=true");
        let error = Objects::open_with_credentials(&url(&text), any.clone()).await.expect_err("nobody answers");
        assert!(matches!(error, ObjectsError::Unreachable { .. }), "{error}");
        assert!(error.is_passing());
        assert!(started.elapsed() < Duration::from_secs(12), "took {:?}", started.elapsed());
    }
}
