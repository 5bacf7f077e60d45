//! TLS in front of both protocols, and groups that share a port.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use crate::common::{GATEWAY, World, eventually, free_ports};
use moorhouse_engine::native::handshake::{ClientHello, ServerHello};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const NAMES: [&str; 3] = ["etl.example", "bi.example", "elsewhere.example"];

/// Writes a new certificate and its key; gives the certificate's PEM.
fn certificate(dir: &Path) -> String {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(NAMES.map(str::to_owned).to_vec()).expect("a certificate");
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem()).expect("writable");
    std::fs::write(dir.join("cert.pem"), cert.pem()).expect("writable");
    cert.pem()
}

async fn connect(port: u16, name: &'static str, trusted: &str) -> std::io::Result<TlsStream<TcpStream>> {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).expect("a certificate")).expect("a certificate");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).expect("a name"), stream).await
}

async fn ask_http(port: u16, name: &'static str, trusted: &str, user: &str) -> String {
    let mut stream = connect(port, name, trusted).await.expect("TLS");
    let body = "INSERT INTO d.t VALUES (1)";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {name}\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: secret\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    // A server that just closes after its answer is fine here.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Says hello over the native protocol; the first byte of the answer, and whether all of a hello came.
async fn greet_native(port: u16, name: &'static str, trusted: &str, user: &str) -> (u8, bool) {
    let mut stream = connect(port, name, trusted).await.expect("TLS");
    let text = |text: &str| text.as_bytes().to_vec();
    let hello = ClientHello {
        name: text("test"),
        major: 20,
        minor: 1,
        revision: 54_412,
        database: vec![],
        user: text(user),
        password: text("secret"),
    };
    stream.write_all(&hello.write()).await.expect("it reads");
    let mut answer = Vec::new();
    loop {
        let count = stream.read_buf(&mut answer).await.expect("it answers");
        if count == 0 || ServerHello::read(&answer, 54_412).is_ok() {
            return (answer[0], ServerHello::read(&answer, 54_412).is_ok());
        }
    }
}

#[tokio::test]
async fn shared_ports_find_the_group_and_certificates_are_read_again() {
    let world = World::start(&[("etl-1", "etl"), ("bi-1", "bi")]).await;
    world.make_table("d", "t").await;
    let dir = tempfile::tempdir().expect("a directory");
    let trusted = certificate(dir.path());
    let [http, native, etl_http, etl_native, bi_http, bi_native, metrics] = free_ports();
    let mut gateway = Command::new(GATEWAY)
        .args(["--controller", &format!("http://{}", world.controller.address)])
        .args(["--listen-group", &format!("etl=127.0.0.1:{etl_http},127.0.0.1:{etl_native}")])
        .args(["--listen-group", &format!("bi=127.0.0.1:{bi_http},127.0.0.1:{bi_native}")])
        .args(["--listen-shared-tls", &format!("127.0.0.1:{http},127.0.0.1:{native}")])
        .args(["--user-group", "sales=bi"])
        .arg("--tls-certificate")
        .arg(dir.path().join("cert.pem"))
        .arg("--tls-key")
        .arg(dir.path().join("key.pem"))
        .args(["--metrics", &format!("127.0.0.1:{metrics}")])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("the gateway starts");
    eventually("the gateway is ready", async || TcpStream::connect(("127.0.0.1", metrics)).await.is_ok()).await;
    for name in [NAMES[0], NAMES[1]] {
        let answer = ask_http(http, name, &trusted, "sales").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
        assert_eq!(greet_native(native, name, &trusted, "sales").await, (0, true), "{name}");
    }
    assert_eq!(world.nodes_with_rows("d", "t").await, ["etl-1"]);
    // No group by name: by user, and if that says nothing either, words.
    assert!(ask_http(http, NAMES[2], &trusted, "sales").await.starts_with("HTTP/1.1 200"));
    assert_eq!(greet_native(native, NAMES[2], &trusted, "sales").await, (0, true));
    let answer = ask_http(http, NAMES[2], &trusted, "stranger").await;
    assert!(answer.contains("Code: 36") && answer.contains("bi, etl"), "{answer}");
    assert_eq!(greet_native(native, NAMES[2], &trusted, "stranger").await, (2, false));
    // A plain client gets nothing, and the port goes on.
    let mut plain = TcpStream::connect(("127.0.0.1", http)).await.expect("it listens");
    plain.write_all(b"GET /ping HTTP/1.1\r\n\r\n").await.expect("it reads");
    let mut nothing = Vec::new();
    let _ = plain.read_to_end(&mut nothing).await;
    assert!(!nothing.starts_with(b"HTTP"), "{nothing:?}");
    // Wrong files change nothing; new ones are taken.
    std::fs::write(dir.path().join("cert.pem"), "nonsense").expect("writable");
    assert!(connect(http, NAMES[0], &trusted).await.is_ok());
    let renewed = certificate(dir.path());
    eventually("the new certificate is shown", async || connect(http, NAMES[0], &renewed).await.is_ok()).await;
    assert!(connect(http, NAMES[0], &trusted).await.is_err());
    gateway.kill().await.expect("it was running");
}
