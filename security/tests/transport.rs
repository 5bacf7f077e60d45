//! Real sockets, real certificates: who gets through, and what the others are told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use moorhouse_base::tasks::TaskGroup;
use moorhouse_proto::enrolment_client::EnrolmentClient;
use moorhouse_proto::enrolment_server::{Enrolment, EnrolmentServer};
use moorhouse_proto::{CertificateReply, JoinRequest, RenewRequest};
use moorhouse_security::{
    Authority, CA_FILE, CERTIFICATE_FILE, Callers, Credentials, Dialer, Expected, GuardLayer, Identity, KEY_FILE,
    Lifetime, RoleKind, TlsFlags, incoming, write_private,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};

/// Answers with what it knows of its caller. `Renew` is for agents, and here for the node `etl-0` alone.
struct Mirror(Callers);

#[tonic::async_trait]
impl Enrolment for Mirror {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<CertificateReply>, Status> {
        let certificate_pem = self.0.of(&request)?.name();
        Ok(Response::new(CertificateReply { certificate_pem, ca_pem: String::new() }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<CertificateReply>, Status> {
        let caller = self.0.of(&request)?;
        caller.must_be_node("etl-0")?;
        Ok(Response::new(CertificateReply { certificate_pem: caller.name(), ca_pem: String::new() }))
    }
}

/// A CA, a server with a controller's certificate, and places for clients' certificates.
struct World {
    home: TempDir,
    authority: Authority,
    address: String,
    tasks: TaskGroup,
}

fn authority() -> Authority {
    let (certificate, key) = Authority::create("prod").expect("made");
    Authority::new(&certificate, &key).expect("usable")
}

fn fill(dir: &Path, authority: &Authority, kind: RoleKind, name: &str, lifetime: Lifetime) {
    let identity = Identity::new("prod", kind, name).expect("valid");
    let issued = authority.issue(&identity, lifetime).expect("issued");
    std::fs::create_dir_all(dir).expect("a directory");
    write_private(&dir.join(CA_FILE), &issued.ca_pem).expect("written");
    write_private(&dir.join(KEY_FILE), issued.key_pem.expose()).expect("written");
    write_private(&dir.join(CERTIFICATE_FILE), &issued.certificate_pem).expect("written");
}

impl World {
    async fn start() -> Self {
        let (home, authority, tasks) = (TempDir::new().expect("a directory"), authority(), TaskGroup::new());
        let dir = home.path().join("controller");
        fill(&dir, &authority, RoleKind::Controller, "c", Lifetime::LEAF);
        let flags = TlsFlags { tls: Some(dir), insecure_plaintext: false };
        let credentials = flags.open(RoleKind::Controller, None, &tasks).expect("usable");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = tonic::transport::Server::builder()
            .layer(GuardLayer)
            .add_service(EnrolmentServer::new(Mirror(Callers::of_process(&flags))))
            .serve_with_incoming_shutdown(incoming(listener, credentials), tasks.token().cancelled_owned());
        tasks.spawn("server", async move { serving.await.expect("serves") });
        Self { home, authority, address, tasks }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A client with a certificate of this CA.
    fn client(&self, kind: RoleKind, name: &str) -> EnrolmentClient<tonic::transport::Channel> {
        let dir = self.dir(name);
        fill(&dir, &self.authority, kind, name, Lifetime::LEAF);
        self.dial(Dialer::tls(Credentials::once(&dir).expect("usable")), Expected::Controller)
    }

    fn dial(&self, dialer: Dialer, expected: Expected) -> EnrolmentClient<tonic::transport::Channel> {
        let endpoint = dialer.endpoint(&self.address).expect("an address");
        EnrolmentClient::new(dialer.channel(&endpoint, expected))
    }
}

async fn renewed(client: &mut EnrolmentClient<tonic::transport::Channel>) -> Result<String, Status> {
    let renewed = client.renew(RenewRequest::default()).await;
    renewed.map(|reply| reply.into_inner().certificate_pem)
}

/// The whole text of an error, causes included.
fn words(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn a_node_speaks_for_itself_alone() {
    let world = World::start().await;
    assert_eq!(renewed(&mut world.client(RoleKind::Agent, "etl-0")).await.expect("its own name"), "agent/etl-0");
    let other = renewed(&mut world.client(RoleKind::Agent, "etl-1")).await.expect_err("another's name");
    assert_eq!(other.code(), Code::PermissionDenied);
    assert!(other.message().contains("agent/etl-1, not of agent/etl-0"), "{other}");
    for kind in [RoleKind::Viewer, RoleKind::Gateway, RoleKind::Admin, RoleKind::Controller] {
        let refused = renewed(&mut world.client(kind, "etl-0")).await.expect_err("no agent");
        assert_eq!(refused.code(), Code::PermissionDenied, "{kind}");
        assert!(refused.message().contains("takes the role agent"), "{refused}");
    }
}

#[tokio::test]
async fn who_has_no_certificate_may_only_join() {
    let world = World::start().await;
    let pinned = Dialer::pinned(world.authority.fingerprint());
    let mut nameless = world.dial(pinned, Expected::Controller);
    let joined = nameless.join(JoinRequest::default()).await.expect("may join").into_inner();
    assert_eq!(joined.certificate_pem, "nameless");
    assert_eq!(renewed(&mut nameless).await.expect_err("no certificate").code(), Code::Unauthenticated);
    let wrong = Dialer::pinned([7; 32]);
    let refused = world.dial(wrong, Expected::Controller).join(JoinRequest::default()).await.expect_err("not its CA");
    assert!(words(&refused).contains("not of our CA"), "{}", words(&refused));
}

#[tokio::test]
async fn plaintext_at_a_tls_port_is_told_so() {
    let world = World::start().await;
    let mut plain = world.dial(Dialer::plaintext(), Expected::Controller);
    for refused in [
        plain.join(JoinRequest::default()).await.expect_err("plaintext"),
        plain.renew(RenewRequest::default()).await.expect_err("plaintext"),
    ] {
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("TLS only"), "{refused}");
    }
}

#[tokio::test]
async fn certificates_of_another_ca_and_expired_ones_are_refused_in_words() {
    let world = World::start().await;
    // Trusts the server, but is not of its CA.
    let foreign = world.dir("foreign");
    fill(&foreign, &authority(), RoleKind::Agent, "etl-0", Lifetime::LEAF);
    write_private(&foreign.join(CA_FILE), world.authority.certificate_pem()).expect("written");
    let dialer = Dialer::tls(Credentials::once(&foreign).expect("usable"));
    let refused = renewed(&mut world.dial(dialer, Expected::Controller)).await.expect_err("foreign");
    assert!(words(&refused).contains("not of its CA"), "{}", words(&refused));
    // Of another CA altogether: it does not even trust the server.
    let stranger = world.dir("stranger");
    fill(&stranger, &authority(), RoleKind::Agent, "etl-0", Lifetime::LEAF);
    let dialer = Dialer::tls(Credentials::once(&stranger).expect("usable"));
    let refused = renewed(&mut world.dial(dialer, Expected::Controller)).await.expect_err("stranger");
    assert!(words(&refused).contains("not of our CA"), "{}", words(&refused));

    let old = world.dir("old");
    fill(&old, &world.authority, RoleKind::Agent, "etl-0", Lifetime(Duration::from_secs(1)));
    let material = Credentials::once(&old).expect("usable");
    let ends = material.current().expires;
    while std::time::SystemTime::now() <= ends + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = renewed(&mut world.dial(Dialer::tls(material), Expected::Controller)).await.expect_err("expired");
    assert!(words(&refused).contains("expired"), "{}", words(&refused));
}

#[tokio::test]
async fn a_client_speaks_only_to_whom_it_means() {
    let world = World::start().await;
    world.client(RoleKind::Agent, "etl-0");
    let dialer = Dialer::tls(Credentials::once(&world.dir("etl-0")).expect("usable"));
    let mut meant = world.dial(dialer, Expected::Agent("bi-0".to_owned()));
    let refused = renewed(&mut meant).await.expect_err("a controller is no agent");
    assert!(words(&refused).contains("it is controller/c, not agent/bi-0"), "{}", words(&refused));
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let world = World::start().await;
    let dir = world.dir("short");
    fill(&dir, &world.authority, RoleKind::Agent, "etl-0", Lifetime(Duration::from_secs(3)));
    let dialer = Dialer::tls(Credentials::once(&dir).expect("usable"));
    let mut client = world.dial(dialer, Expected::Controller);
    renewed(&mut client).await.expect("still good");
    // The same channel: what was admitted once is not admitted for ever.
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while renewed(&mut client).await.is_ok() {
        assert!(tokio::time::Instant::now() < until, "the connection outlives its certificate");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn certificates_are_exchanged_under_traffic() {
    let world = World::start().await;
    let dir = world.dir("etl-0");
    fill(&dir, &world.authority, RoleKind::Agent, "etl-0", Lifetime::LEAF);
    let credentials = Credentials::open(&dir, &world.tasks).expect("usable");
    let before = credentials.current();
    let mut kept = world.dial(Dialer::tls(credentials.clone()), Expected::Controller);
    renewed(&mut kept).await.expect("the first call");
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut exchanged = false;
    let mut after = 0;
    // Calls on a kept connection and on new ones, until both sides are known to use what is new.
    while after < 20 {
        renewed(&mut kept).await.expect("a call on a kept connection");
        let mut fresh = world.dial(Dialer::tls(credentials.clone()), Expected::Controller);
        renewed(&mut fresh).await.expect("a call on a new connection");
        if !exchanged {
            fill(&dir, &world.authority, RoleKind::Agent, "etl-0", Lifetime::days(200));
            fill(&world.dir("controller"), &world.authority, RoleKind::Controller, "c", Lifetime::days(200));
            exchanged = true;
        }
        if credentials.current().expires > before.expires {
            after += 1;
        }
        assert!(tokio::time::Instant::now() < until, "the new certificate is not taken");
    }
    // Somebody else's certificate is not taken.
    fill(&dir, &world.authority, RoleKind::Admin, "mallory", Lifetime::LEAF);
    let refused = moorhouse_security::metrics::RELOADS.with_label_values(&["refused"]);
    while refused.get() == 0 {
        assert!(tokio::time::Instant::now() < until, "the change is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(credentials.current().identity.short(), "agent/etl-0");
}
