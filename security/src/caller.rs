//! Who is behind one request: put there by the guard, read by the services.

use std::fmt;
use std::net::SocketAddr;

use tonic::{Request, Status};

use crate::flags::TlsFlags;
use crate::identity::{Identity, Role};

/// Metadata with which a gateway says for which SQL user it asks, and from where that user is connected.
pub const BEHALF_HEADER: &str = "moorhouse-on-behalf-of";
pub const CLIENT_HEADER: &str = "moorhouse-client";
/// Longest value of either, in bytes.
const HEADER_BYTES: usize = 256;

/// How much is known of the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// By a certificate of our CA.
    Known(Identity),
    /// TLS without a certificate: may only join.
    Nameless,
    /// This process speaks plaintext: whoever reaches the port may do everything.
    Plaintext,
    /// Plaintext at a port that takes TLS: may do nothing, but is told so.
    PlaintextAtTls,
}

/// Where services learn who calls.
#[derive(Debug, Clone, Copy)]
pub struct Callers {
    must_be_guarded: bool,
}

impl Callers {
    pub fn of_process(flags: &TlsFlags) -> Self {
        Self { must_be_guarded: flags.tls.is_some() }
    }

    /// Who is behind a request. In a process that speaks plaintext it may come without a guard: it may do everything.
    ///
    /// # Errors
    /// `Internal` if TLS is spoken and no guard stands before the service: then nobody may be trusted.
    pub fn of<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        match request.extensions().get::<Caller>() {
            Some(caller) => Ok(caller.clone()),
            None if self.must_be_guarded => Err(Status::internal("the service has no guard")),
            None => Ok(Caller { who: Who::Plaintext, address: None, on_behalf_of: None, client: None }),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Caller {
    pub who: Who,
    pub address: Option<SocketAddr>,
    /// The SQL user, from a gateway.
    pub on_behalf_of: Option<String>,
    /// The SQL user's address, from a gateway.
    pub client: Option<String>,
}

impl Caller {
    /// # Errors
    /// `PermissionDenied` if an agent speaks for a node that it is not.
    pub fn must_be_node(&self, node: &str) -> Result<(), Status> {
        match &self.who {
            Who::Plaintext => Ok(()),
            Who::Known(identity) => match identity.role() {
                Role::Agent(own) if own == node => Ok(()),
                role => {
                    crate::metrics::DENIED.inc();
                    let text = format!(
                        "the certificate is of {}/{}, not of agent/{node}: an agent speaks for its own node only",
                        role.kind(),
                        role.name()
                    );
                    tracing::warn!(caller = %self, node, "denied: {text}");
                    Err(Status::permission_denied(text))
                }
            },
            Who::Nameless | Who::PlaintextAtTls => Err(Status::unauthenticated("no certificate")),
        }
    }

    /// `admin/ada`; `plaintext` where nobody has to say who he is.
    pub fn name(&self) -> String {
        match &self.who {
            Who::Known(identity) => identity.short(),
            Who::Nameless => "nameless".to_owned(),
            Who::Plaintext | Who::PlaintextAtTls => "plaintext".to_owned(),
        }
    }

    /// Where the request comes from: the SQL user's address before the gateway's.
    pub fn from(&self) -> String {
        let own = || self.address.map_or_else(String::new, |address| address.to_string());
        self.client.clone().unwrap_or_else(own)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name(), self.from())
    }
}

/// A header's value, if it is short and printable.
pub(crate) fn header(headers: &tonic::codegen::http::HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty() && value.len() <= HEADER_BYTES).then(|| value.to_owned())
}
