//! Who speaks to whom in a warehouse, and who may ask what.
//!
//! Nouns: an **identity** is what a certificate says (`moorhouse://WAREHOUSE/ROLE/NAME`); a **rule** says which roles may
//! call a method; a **caller** is the identity, the address and the SQL user behind one request; **material** is one
//! reading of a directory with `tls.crt`, `tls.key` and `ca.crt`, read again whenever the files change.
//! Rules: no request reaches a service before the guard has looked at it; a connection outlives neither side's
//! certificate; a process without certificates speaks on the loopback only, unless it was told otherwise by name.

mod identity;
pub mod rules;

mod authority;
mod files;
mod material;
mod token;

mod accept;
mod caller;
mod connect;
mod guard;
mod leader;

mod flags;
pub mod limits;
pub mod metrics;

pub use accept::{Connection, incoming};
pub use authority::{Authority, AuthorityError, CertificateRequest, Issued, KeyPem, Lifetime};
pub use caller::{BEHALF_HEADER, CLIENT_HEADER, Caller, Callers, Who};
pub use connect::{ConnectError, Dialer, Expected};
pub use files::{Credentials, write_private};
pub use flags::{Scheme, TlsFlags, check_listen};
pub use guard::{Guard, GuardLayer};
pub use identity::{Identity, InvalidIdentity, Role, RoleKind};
pub use leader::{LEADER_HEADER, LeaderChannel, controller_urls, not_leader};
pub use material::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, Material, MaterialError};
pub use token::{JoinToken, sha256};
