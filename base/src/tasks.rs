//! Tasks with an owner: each has a name, ends with its group, and is awaited. Nothing in Moorhouse calls `tokio::spawn` bare.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A set of tasks with one end: [`TaskGroup::shutdown`].
#[derive(Clone, Default)]
pub struct TaskGroup {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl TaskGroup {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the group shuts down; long loops select on it.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs `task` until it ends or the group shuts down, whichever is first.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        let work = async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = task => {}
            }
        };
        self.tracker.spawn(work.instrument(tracing::info_span!("task", name)));
    }

    /// Runs `task` to its own end: for work that must notice the token itself, to stop at a safe point.
    pub fn spawn_uncancelled(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task.instrument(tracing::info_span!("task", name)));
    }

    /// Cancels all and waits for them; false if some were still running at the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

/// Resolves at SIGTERM or SIGINT.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
