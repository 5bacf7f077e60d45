//! A certificate from the controller: the first by a join token, the next ones in its own name.
//!
//! The key is made here and never leaves the node. Only a directory that was filled by joining is renewed: other
//! certificates are somebody else's to renew.

use std::path::Path;
use std::time::SystemTime;

use moorhouse_base::secret::Secret;
use moorhouse_catalog::{GroupName, NodeName};
use moorhouse_proto as wire;
use moorhouse_proto::enrolment_client::EnrolmentClient;
use moorhouse_security::{
    CA_FILE, CERTIFICATE_FILE, CertificateRequest, Credentials, Dialer, Expected, JoinToken, KEY_FILE, controller_urls,
    write_private,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::controller::{Backoff, is_passing};
use crate::limits;

/// Says that the certificate came by joining.
const ENROLLED_FILE: &str = "enrolled";

/// Who wants to join, and where.
pub struct Joining<'a> {
    pub controllers: &'a str,
    pub token: &'a Secret,
    pub node: &'a NodeName,
    pub group: &'a GroupName,
    pub dir: &'a Path,
}

/// Fills the directory, unless it has a certificate already. Waits for a controller that is not there yet.
///
/// # Errors
/// One line: the token is refused, or the directory cannot be written.
pub async fn join(joining: Joining<'_>) -> Result<(), String> {
    let Joining { controllers, token, node, group, dir } = joining;
    if dir.join(CERTIFICATE_FILE).exists() {
        tracing::info!(dir = %dir.display(), "this node has a certificate: the join token is not needed");
        return Ok(());
    }
    let read = JoinToken::read(token).map_err(|error| format!("--join-token: {error}"))?;
    let request = CertificateRequest::new().map_err(|error| error.to_string())?;
    // Before the token is used up, so that a directory that cannot be written costs nothing.
    std::fs::create_dir_all(dir).map_err(|error| format!("--tls: cannot make {}: {error}", dir.display()))?;
    write(dir, KEY_FILE, request.key_pem.expose())?;
    let dialer = Dialer::pinned(read.ca_sha256);
    let mut pause = Backoff::new(limits::RECONNECT_FIRST, limits::RECONNECT_LONGEST);
    let urls: Vec<&str> = controller_urls(controllers).collect();
    for url in urls.into_iter().cycle() {
        let asked = wire::JoinRequest {
            token: token.expose().to_owned(),
            node: node.to_string(),
            group: group.to_string(),
            request_der: request.der.clone().into(),
        };
        match client(&dialer, url)?.join(asked).await {
            Ok(reply) => {
                keep(dir, &reply.into_inner())?;
                write(dir, ENROLLED_FILE, "by join token\n")?;
                tracing::info!(%node, dir = %dir.display(), "joined: the controller has issued a certificate");
                return Ok(());
            }
            Err(status) if is_passing(&status) => {
                tracing::warn!(url, error = %whole(&status), "no controller to join yet");
                pause.wait().await;
            }
            Err(status) => return Err(format!("the controller refuses to let {node} join: {}", status.message())),
        }
    }
    Err("--controller names no address".to_owned())
}

/// Renews for ever, each time at two thirds of the certificate's life.
pub async fn keep_renewed(controllers: String, credentials: Credentials) {
    if !credentials.dir().join(ENROLLED_FILE).exists() {
        return std::future::pending().await;
    }
    let dialer = Dialer::tls(credentials.clone());
    let mut turn = 0;
    loop {
        tokio::time::sleep(limits::RENEWAL_LOOK).await;
        let material = credentials.current();
        let life = material.expires.duration_since(material.issued).unwrap_or_default();
        let left = material.expires.duration_since(SystemTime::now()).unwrap_or_default();
        if left > life / 3 {
            continue;
        }
        let urls: Vec<&str> = controller_urls(&controllers).collect();
        let url = urls[turn % urls.len()];
        turn += 1;
        match renew(&dialer, url, credentials.dir()).await {
            Ok(()) => tracing::info!("the certificate is renewed"),
            Err(error) => tracing::warn!(error, url, "the certificate is not renewed yet"),
        }
    }
}

async fn renew(dialer: &Dialer, url: &str, dir: &Path) -> Result<(), String> {
    let request = CertificateRequest::new().map_err(|error| error.to_string())?;
    let asked = wire::RenewRequest { request_der: request.der.into() };
    let reply = client(dialer, url)?.renew(asked).await.map_err(|status| whole(&status))?;
    write(dir, KEY_FILE, request.key_pem.expose())?;
    keep(dir, &reply.into_inner())
}

fn client(dialer: &Dialer, url: &str) -> Result<EnrolmentClient<Channel>, String> {
    let endpoint = dialer.endpoint(url).map_err(|error| format!("--controller {url}: {error}"))?;
    let endpoint = endpoint.connect_timeout(limits::CONTROLLER_CONNECT).timeout(limits::CALL_LONGEST);
    Ok(EnrolmentClient::new(dialer.channel(&endpoint, Expected::Controller)))
}

fn keep(dir: &Path, reply: &wire::CertificateReply) -> Result<(), String> {
    write(dir, CA_FILE, &reply.ca_pem)?;
    // Last: with it the three belong together.
    write(dir, CERTIFICATE_FILE, &reply.certificate_pem)
}

fn write(dir: &Path, name: &str, content: &str) -> Result<(), String> {
    let path = dir.join(name);
    write_private(&path, content).map_err(|error| format!("--tls: cannot write {}: {error}", path.display()))
}

/// With the causes, in which the reason of a refused handshake stands.
fn whole(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
