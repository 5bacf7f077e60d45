//! `moorhouse-embedded-engine LIBCHDB ARGUMENT…`: runs `libchdb.so` as a ClickHouse server.
//!
//! The library is `clickhouse local`. With a standard input that is no terminal it installs a handler which aborts the
//! process at one failed login; so it gets a pseudo-terminal of its own, with echo and signals off. The library runs on
//! the main thread; SIGTERM types `exit` on the terminal, which is the library's way of a clean stop.

mod terminal;

use std::ffi::{CString, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

type CommandLine = unsafe extern "C" fn(c_int, *mut *mut c_char) -> c_int;

/// As for a wrong command line.
const CANNOT_RUN: i32 = 2;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(library) = arguments.next() else {
        eprintln!("moorhouse-embedded-engine: name libchdb.so and the arguments of `clickhouse local`");
        std::process::exit(CANNOT_RUN);
    };
    match run(library, arguments) {
        // The library's threads still run: leaving without its destructors is the only exit that can't hang.
        // SAFETY: `_exit` has no preconditions.
        Ok(code) => unsafe { libc::_exit(code) },
        Err(error) => {
            eprintln!("moorhouse-embedded-engine: {error}");
            std::process::exit(CANNOT_RUN);
        }
    }
}

fn run(library: OsString, arguments: impl Iterator<Item = OsString>) -> Result<c_int, Box<dyn std::error::Error>> {
    // SAFETY: no other thread runs yet, and the dispositions and the variable are set before the library is loaded.
    unsafe {
        signal(Signal::SIGPIPE, SigHandler::SigIgn)?;
        std::env::set_var("TERM", "dumb");
    }
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    // Blocked in every thread that comes, so that only the waiting thread ever sees it.
    stop.thread_block()?;
    let terminal = terminal::Terminal::become_stdin()?;
    terminal.type_exit_at(stop)?;

    let mut words = vec![CString::new("clickhouse")?];
    for argument in arguments {
        words.push(CString::new(argument.into_vec())?);
    }
    let mut pointers: Vec<*mut c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    let count = c_int::try_from(pointers.len())?;
    pointers.push(std::ptr::null_mut());

    // SAFETY: the library is ClickHouse's own build; its initialisers may run on the main thread.
    let loaded = unsafe { libloading::Library::new(library)? };
    // SAFETY: the symbol has this signature, that of a C `main`.
    let command_line = unsafe { loaded.get::<CommandLine>(b"chdb_query_cmdline\0")? };
    // SAFETY: `pointers` is an argv: `count` strings and a null, alive during the call.
    let code = unsafe { command_line(count, pointers.as_mut_ptr()) };
    Ok(code)
}
