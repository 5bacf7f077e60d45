//! Finds the controller that leads, where `--controller` names several or a standby.

use std::collections::VecDeque;
use std::time::Duration;

use moorhouse_proto::ListMovesRequest;
use moorhouse_security::{LEADER_HEADER, TlsFlags, controller_urls};

use crate::controller::Controller;
use crate::error::CtlError;

/// Connections until it gives up: through every address, and to leaders that standbys have named.
const ATTEMPTS: usize = 50;
/// Pause after a standby that knows no leader: an election takes seconds.
const PAUSE: Duration = Duration::from_millis(200);

/// Connects to the leader. `urls` may be several with commas between.
pub async fn connect(urls: &str, tls: &TlsFlags) -> Result<Controller, CtlError> {
    let mut waiting: VecDeque<String> = controller_urls(urls).map(str::to_owned).collect();
    let mut failure = CtlError::bad_input("--controller names nothing", "say --controller http://HOST:PORT");
    for _ in 0..ATTEMPTS {
        let Some(url) = waiting.pop_front() else { break };
        let mut controller = match Controller::connect_to(&url, tls).await {
            Ok(controller) => controller,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        let Err(status) = controller.admin().list_moves(ListMovesRequest {}).await else { return Ok(controller) };
        let Some(leader) = status.metadata().get(LEADER_HEADER) else {
            // It leads; what it has against this caller it will say to the command itself.
            return Ok(controller);
        };
        failure = CtlError::failed(format!("{url}: {}", status.message()));
        match leader.to_str() {
            Ok(leader) if !leader.is_empty() => {
                let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
                waiting.push_back(format!("{scheme}://{leader}"));
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
        waiting.push_back(url);
    }
    Err(failure)
}
