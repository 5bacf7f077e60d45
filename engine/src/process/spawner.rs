//! Starts processes that die with this one.
//!
//! PDEATHSIG fires when the *thread* that forked ends, and a runtime's threads come and go. So one thread, that lives as
//! long as the program, forks for all.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command` so that the kernel kills it when this process ends, however it ends.
pub async fn spawn(mut command: Command) -> io::Result<Child> {
    let parent = std::process::id();
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || die_with(parent));
    }
    let (answer, child) = oneshot::channel();
    let order = Order { command, runtime: Handle::current(), answer };
    spawner()?.send(order).map_err(|_| io::Error::other("the spawning thread has ended"))?;
    child.await.map_err(|_| io::Error::other("the spawning thread gave no answer"))?
}

fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: prctl and getppid touch no memory of ours.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // It may have ended before the line above.
        if u32::try_from(libc::getppid()).ok() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

fn spawner() -> io::Result<Sender<Order>> {
    static SPAWNER: OnceLock<Option<Sender<Order>>> = OnceLock::new();
    let sender = SPAWNER.get_or_init(|| {
        // Unbounded, but each order's sender waits for its answer.
        let (orders, inbox) = channel::<Order>();
        let work = move || {
            for mut order in inbox {
                let _entered = order.runtime.enter();
                // If nobody waits any more the child is dropped, and thereby killed.
                let _ = order.answer.send(order.command.spawn());
            }
        };
        std::thread::Builder::new().name("engine-spawner".into()).spawn(work).ok().map(|_| orders)
    });
    sender.clone().ok_or_else(|| io::Error::other("cannot start the spawning thread"))
}
