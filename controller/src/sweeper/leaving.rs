//! The records of dropped tables: removed in bounded steps, so that a large table does not hold up the others.

use moorhouse_catalog::state::{Command, Reply};
use tracing::debug;

use crate::owner::Owner;
use crate::{limits, metrics};

/// Removes what dropped tables have left, one bounded step after the other, until the controller stops. Each step waits for
/// its turn in the owner loop: commits of other tables go between.
pub async fn clear_leaving(owner: Owner) {
    loop {
        match owner.apply(Command::ClearLeaving).await {
            Ok(Reply::Changed(true)) => metrics::CLEARING_STEPS.inc(),
            Ok(_) => tokio::time::sleep(limits::LEAVING_INTERVAL).await,
            Err(error) => {
                debug!(%error, "a step of clearing a dropped table was not confirmed, trying again");
                tokio::time::sleep(limits::LEAVING_INTERVAL).await;
            }
        }
    }
}
