//! Who takes part in the warehouse, and what they change: join tokens, certificates for nodes, the audit.

mod audit;
mod enrolment;
mod service;
mod token;

pub use audit::{Audit, Noted};
pub use enrolment::{EnrolmentService, Issuer};
pub use service::SecurityService;
