//! One door to the object store that holds a warehouse's bytes: a directory (`file://`) or an S3 bucket (`s3://`).
//!
//! * [`ObjectsUrl`]: where the objects are, as the operator writes it.
//! * [`Objects`]: put, read a range, delete, list; keys are below the URL's prefix.
//! * [`Begun`]: an upload in pieces that outlives whoever began it.
//! * [`Objects::claim`]: the marker that keeps two warehouses from sharing one prefix.
//!
//! Only `door.rs` imports `object_store`; everything that it can answer is translated there to [`ObjectsError`].

mod url;
pub use url::{BadObjectsUrl, ObjectsUrl};

mod error;
pub use error::ObjectsError;

mod objects;
pub use objects::{MULTIPART_ABOVE_BYTES, Objects, PIECE_BYTES, PIECES_IN_FLIGHT, PutReport};

mod pieces;
pub use pieces::{Begun, Piece, Sent, Unfinished};

mod door;
pub use door::S3Credentials;

pub mod metrics;
