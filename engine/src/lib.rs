//! ClickHouse seen from outside: which binary, its configuration, its process, SQL over HTTP, and how its native
//! protocol is framed. Knows nothing of warehouses or catalogs.
//!
//! Reading order: [`binary`] finds an engine, [`config`] says how it is to run, [`process`] runs it, [`sql`] talks to it,
//! [`native`] follows the bytes of a native connection.

pub mod binary;
pub mod config;
pub mod error;
pub mod native;
pub mod process;
pub mod sql;

pub use binary::{EngineBinary, EngineChoice, EngineVersion};
pub use config::{
    Admin, ClusterConfig, ClusterShard, EngineAccess, EngineConfig, EngineKind, GrantedUser, QuotaLimits, RowFilter,
    SqlUser,
};
pub use error::EngineError;
pub use process::Engine;
pub use sql::{SqlClient, SqlError, quote_identifier, quote_string};
