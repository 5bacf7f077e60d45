//! Failpoints: named places where a test makes the process end at once, as a crash would.
//!
//! `MOORHOUSE_FAILPOINT=upload.after_put` kills the process (SIGKILL, nothing is cleaned up) when it first comes to that
//! place, `upload.after_put@3` when it comes there for the third time. In a release build a failpoint is nothing at all.
//! The names are listed in docs/OPERATIONS.md, beside what a crash there leaves behind.

/// The process ends here if the environment says so.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_name: &'static str) {}

/// The process ends here if the environment says so.
#[cfg(debug_assertions)]
pub fn reach(name: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: LazyLock<Option<Armed>> =
        LazyLock::new(|| std::env::var("MOORHOUSE_FAILPOINT").ok().map(|text| Armed::read(&text)));
    static REACHED: AtomicU64 = AtomicU64::new(0);

    let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name) else { return };
    if REACHED.fetch_add(1, Ordering::SeqCst) + 1 == armed.time {
        tracing::error!(name, "the failpoint is reached: this process ends here, as it was told");
        let own = std::process::id().to_string();
        // SIGKILL, so that no destructor and no exit handler tidies up.
        let _ = std::process::Command::new("kill").args(["-KILL", &own]).status();
        std::process::abort();
    }
}

#[cfg(debug_assertions)]
#[derive(Debug, PartialEq, Eq)]
struct Armed {
    name: String,
    time: u64,
}

#[cfg(debug_assertions)]
impl Armed {
    /// What is no number after `@` counts as the first time.
    fn read(text: &str) -> Self {
        let (name, time) = text.split_once('@').unwrap_or((text, "1"));
        Self { name: name.to_owned(), time: time.parse().unwrap_or(1) }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_failpoint_is_read_with_and_without_its_time() {
        assert_eq!(Armed::read("upload.after_put"), Armed { name: "upload.after_put".to_owned(), time: 1 });
        assert_eq!(Armed::read("commit.after@3"), Armed { name: "commit.after".to_owned(), time: 3 });
    }
}
