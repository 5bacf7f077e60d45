//! `moorhouse-simulate`: runs seeds, each in a process of its own, and tells the first that breaks a rule.
//!
//! Exit code 0: every run kept the rules; 1: one did not; 2: it could not run.

use std::ffi::c_void;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use moorhouse_simulation::{entropy, run};

/// Runs the metadata plane on virtual time, with faults that follow from a seed.
#[derive(Debug, Parser)]
#[command(name = "moorhouse-simulate", version)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One seed, in this process, with its last events.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// With `--seed`: its last events also if it breaks no rule.
    #[arg(long, requires = "seed")]
    events: bool,
    /// Processes at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// Stands in front of the C library's, so that all chance follows from the seed.
///
/// # Safety
/// As getrandom(2): `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: u32) -> isize {
    if length > 0 {
        // SAFETY: the caller promises the room, and length 0 is left out because then the pointer may be any.
        entropy::fill(unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) });
    }
    length as isize
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => one(seed, args.events),
        None => many(&args),
    }
}

fn one(seed: u64, show: bool) -> ExitCode {
    entropy::seed(seed);
    if std::env::var_os("MOORHOUSE_LOG").is_some() {
        moorhouse_base::telemetry::init_logs();
    }
    let outcome = match run::run(seed) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("moorhouse-simulate: seed {seed}: {error}");
            return ExitCode::from(2);
        }
    };
    let run::Outcome { hash, events, commits, violation, last_events, .. } = outcome;
    println!("seed {seed} hash {hash:016x} events {events} commits {commits}");
    if show || violation.is_some() {
        last_events.iter().for_each(|event| println!("{event}"));
    }
    match violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("seed {seed} breaks a rule: {violation}");
            println!("again: moorhouse-simulate --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let (next, end) = (AtomicU64::new(args.from), args.from + args.seeds);
    let failed = Mutex::new(None::<(u64, Output)>);
    let commits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match child(seed) {
                        Ok(output) if output.status.success() => {
                            commits.fetch_add(commits_of(&output), Ordering::Relaxed);
                        }
                        Ok(output) => {
                            next.store(end, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            if failed.as_ref().is_none_or(|(other, _)| *other > seed) {
                                *failed = Some((seed, output));
                            }
                        }
                        Err(error) => {
                            eprintln!("moorhouse-simulate: seed {seed} cannot be run: {error}");
                            next.store(end, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        None => {
            let commits = commits.into_inner();
            println!("{} seeds from {} kept every rule, with {commits} acknowledged commits", args.seeds, args.from);
            ExitCode::SUCCESS
        }
        Some((seed, output)) => {
            print!("{}", String::from_utf8_lossy(&output.stdout));
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            println!("seed {seed} failed ({})", output.status);
            ExitCode::FAILURE
        }
    }
}

/// A process for each seed: what a library counts in its statics begins anew.
fn child(seed: u64) -> std::io::Result<Output> {
    let program = std::env::current_exe()?;
    let seed = seed.to_string();
    Command::new(program).args(["--seed", &seed]).stdin(Stdio::null()).output()
}

fn commits_of(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().next().and_then(|line| line.rsplit(' ').next());
    last.and_then(|number| number.parse().ok()).unwrap_or(0)
}
