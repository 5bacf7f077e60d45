//! The pseudo-terminal that stands in for a person at the engine's prompt.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::pty::openpty;
use nix::sys::signal::SigSet;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Discards a half-typed line, then leaves the prompt.
const EXIT: &[u8] = b"\x15exit\n";

/// The typing end.
pub struct Terminal {
    master: File,
}

impl Terminal {
    /// Makes the other end this process's standard input, without echo and without signal keys.
    pub fn become_stdin() -> io::Result<Self> {
        let pair = openpty(None, None)?;
        let mut settings = tcgetattr(&pair.slave)?;
        settings.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ISIG);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &settings)?;
        nix::unistd::dup2_stdin(&pair.slave)?;
        close_on_exec(&pair.master)?;
        Ok(Self { master: File::from(pair.master) })
    }

    /// From now on the first of `signals` types `exit`. They must be blocked in the calling thread.
    pub fn type_exit_at(self, signals: SigSet) -> io::Result<()> {
        let mut output = self.master.try_clone()?;
        // Whatever is written to the terminal must be read, or the writer would block.
        std::thread::Builder::new().name("drain".into()).spawn(move || {
            let mut buffer = [0; 4096];
            while output.read(&mut buffer).is_ok_and(|read| read > 0) {}
        })?;
        let mut input = self.master;
        std::thread::Builder::new().name("stop".into()).spawn(move || {
            while signals.wait().is_ok() {
                if let Err(error) = input.write_all(EXIT) {
                    eprintln!("moorhouse-embedded-engine: cannot type exit: {error}");
                }
            }
        })?;
        Ok(())
    }
}

fn close_on_exec(fd: &OwnedFd) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}
