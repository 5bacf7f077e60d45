//! A process of the simulation: a runtime of its own on virtual time, that can be killed in the middle of anything, or stopped for
//! a while and then go on with what it believed before.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

type Main = Pin<Box<dyn Future<Output = ()> + Send>>;

pub struct Process {
    pub name: String,
    runtime: Runtime,
    /// Time that has passed for everybody else.
    missed: Duration,
    stopped: bool,
    ended: Arc<AtomicBool>,
}

impl Process {
    pub fn start(name: &str, main: Main) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        runtime.spawn(async move {
            main.await;
            end.store(true, Ordering::Relaxed);
        });
        Ok(Self { name: name.to_owned(), runtime, missed: Duration::ZERO, stopped: false, ended })
    }

    /// As SIGSTOP.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// As SIGCONT: all timers that have ended meanwhile have ended at once.
    pub fn go_on(&mut self) {
        self.stopped = false;
        let missed = std::mem::take(&mut self.missed);
        self.runtime.block_on(tokio::time::advance(missed));
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Its main has ended: what else it was doing must end with it.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Lets it run for some virtual time.
    pub fn step(&mut self, by: Duration) {
        if self.stopped {
            self.missed += by;
        } else {
            self.runtime.block_on(async move { tokio::time::sleep(by).await });
        }
    }
}
