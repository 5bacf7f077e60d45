//! The deep check: reads every stored byte and compares it with the checksum of its file.

use futures::StreamExt;
use moorhouse_catalog::Location;
use moorhouse_objects::ObjectsError;

use super::{Fsck, Reference, Report, finding};
use crate::limits;
use crate::sweeper::orphans::WalkError;

/// What reading a file gave.
enum Content {
    Right,
    Other {
        found: u32,
        expected: u32,
    },
    /// The shallow check tells of it.
    Absent,
}

impl Fsck {
    /// Every stored file has the content that its writer saw.
    pub(super) async fn check_content(&self, stored: Vec<Reference>, report: &mut Report) -> Result<(), WalkError> {
        let reads = futures::stream::iter(stored).map(|reference| async move {
            let read = self.read(&reference).await;
            (reference, read)
        });
        let mut reads = reads.buffer_unordered(limits::FSCK_PARALLEL);
        while let Some((reference, read)) = reads.next().await {
            report.summary.bytes_read += reference.file().bytes;
            let Content::Other { found, expected } = read? else { continue };
            if self.still_refers(&reference).await? {
                let detail = format!("its bytes have the CRC-32C {found:08x} instead of {expected:08x}");
                report.find(finding("damaged", &reference.subject(), detail, "", false)).await;
            }
        }
        Ok(())
    }

    async fn read(&self, reference: &Reference) -> Result<Content, WalkError> {
        let file = reference.file();
        let Location::Stored { object, offset, crc32c: expected } = &file.location else { return Ok(Content::Right) };
        let mut found = 0;
        let mut at = 0;
        while at < file.bytes {
            let piece = limits::FSCK_PIECE_BYTES.min(file.bytes - at);
            match self.objects.get_range(object.as_str(), offset + at, piece).await {
                Ok(bytes) => found = crc32c::crc32c_append(found, &bytes),
                Err(ObjectsError::NotFound { .. } | ObjectsError::Short { .. }) => return Ok(Content::Absent),
                Err(error) => return Err(error.into()),
            }
            at += piece;
        }
        Ok(if found == *expected { Content::Right } else { Content::Other { found, expected: *expected } })
    }
}
