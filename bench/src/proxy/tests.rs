use std::io::Cursor;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::framing::{Framed, Requests};
use super::{DelayProxy, Method};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn requests_are_told_apart_whatever_their_bodies_hold() {
    let text = concat!(
        "PUT /b/k HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / \r\n\r",
        "GET /b?list-type=2&prefix=x HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /b?delete HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\n\r\n\r\n\r\n0\r\nT: 1\r\n\r\n",
        "HEAD /b/k HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        "GET /b/list-type=2 HTTP/1.1\r\n\r\n",
    );
    // One byte at a time, and all at once: the same.
    for step in [1, text.len()] {
        let (mut sender, receiver) = tokio::io::duplex(step);
        let sending = tokio::spawn(async move { sender.write_all(text.as_bytes()).await });
        let mut requests = Requests::new(receiver);
        let (mut methods, mut passed) = (Vec::new(), Vec::new());
        while let Some(framed) = requests.next().await.expect("it is HTTP") {
            passed.extend(match framed {
                Framed::Head(method, bytes) => {
                    methods.push(method);
                    bytes
                }
                Framed::Body(bytes) => bytes,
            });
        }
        sending.await.expect("no panic").expect("sent");
        assert_eq!(methods, [Method::Put, Method::List, Method::Post, Method::Head, Method::Get]);
        assert_eq!(String::from_utf8(passed).expect("text"), text);
    }
}

#[tokio::test]
async fn what_is_no_http_is_an_error() {
    for text in ["GET / HTTP/1.1\r\nHost", "nonsense\r\n\r\n", "PUT / HTTP/1.1\r\nContent-Length: many\r\n\r\n"] {
        let error = Requests::new(Cursor::new(text)).next().await;
        assert!(error.is_err(), "{text:?}");
    }
}

/// A server that answers each request of a connection, in order, with its target.
async fn echo_targets() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (from, mut to) = stream.into_split();
                let mut requests = Requests::new(from);
                while let Ok(Some(framed)) = requests.next().await {
                    let Framed::Head(_, head) = framed else { continue };
                    let head = String::from_utf8(head).expect("text");
                    let target = head.split(' ').nth(1).expect("a target").to_owned();
                    to.write_all(target.as_bytes()).await.expect("the proxy reads");
                }
            });
        }
    });
    port
}

async fn answer_of(connection: &mut TcpStream, expected: &str) {
    let mut answer = vec![0; expected.len()];
    timeout(PATIENCE, connection.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(String::from_utf8(answer).expect("text"), expected);
}

#[tokio::test]
async fn requests_in_a_row_wait_side_by_side_and_stay_in_order() {
    let proxy = DelayProxy::start(echo_targets().await).await.expect("a proxy");
    let delay = Duration::from_millis(300);
    proxy.set_delay(delay);
    let mut connection = TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("it listens");
    let started = Instant::now();
    let requests: String = (0..20).map(|at| format!("GET /{at:02} HTTP/1.1\r\n\r\n")).collect();
    connection.write_all(requests.as_bytes()).await.expect("sent");
    let answers: String = (0..20).map(|at| format!("/{at:02}")).collect();
    answer_of(&mut connection, &answers).await;
    let took = started.elapsed();
    assert!(took >= delay, "{took:?}");
    // One after the other they would take 6 s.
    assert!(took < delay * 10, "{took:?}");
    assert_eq!(proxy.counts().of(Method::Get), 20);
}

#[tokio::test]
async fn held_writes_wait_and_reads_on_other_connections_do_not() {
    let proxy = DelayProxy::start(echo_targets().await).await.expect("a proxy");
    let held = proxy.hold_writes();
    let connect = || TcpStream::connect(("127.0.0.1", proxy.port()));
    let (mut writer, mut reader) = (connect().await.expect("listens"), connect().await.expect("listens"));
    let earlier = proxy.counts();
    writer.write_all(b"PUT /w HTTP/1.1\r\nContent-Length: 1\r\n\r\nx").await.expect("sent");
    reader.write_all(b"GET /r HTTP/1.1\r\n\r\n").await.expect("sent");
    answer_of(&mut reader, "/r").await;
    let mut nothing = [0; 1];
    assert!(timeout(Duration::from_millis(100), writer.read(&mut nothing)).await.is_err(), "it was not held");
    drop(held);
    answer_of(&mut writer, "/w").await;
    let counts = proxy.counts().since(&earlier);
    assert_eq!((counts.of(Method::Put), counts.of(Method::Get)), (1, 1));
}
