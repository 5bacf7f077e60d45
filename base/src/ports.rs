//! Free ports for servers that must be told theirs: engines, etcd, Garage, whole test warehouses.
//!
//! They come from below the kernel's range for outgoing connections (32768 and up), so that none of those takes one
//! between the question and the server's start, and no two askers of this process get the same.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const LAST: u32 = 32_000;
const TRIES: u32 = 1_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The first of `length` ports in a row that nobody on this machine's loopback listens on.
pub fn free_row(length: u16) -> std::io::Result<u16> {
    let length = u32::from(length);
    // Programs that run at the same time begin at different places.
    let offset = std::process::id().wrapping_mul(101) % (LAST - FIRST);
    for _ in 0..TRIES {
        let taken = NEXT.fetch_add(length, Ordering::Relaxed);
        let first = FIRST + (offset + taken) % (LAST - FIRST - length);
        if (first..first + length).all(is_free) {
            return u16::try_from(first).map_err(std::io::Error::other);
        }
    }
    Err(std::io::Error::other(format!("no {length} free ports in a row between {FIRST} and {LAST}")))
}

/// `N` free ports.
pub fn free<const N: usize>() -> std::io::Result<[u16; N]> {
    let first = free_row(N as u16)?;
    Ok(std::array::from_fn(|at| first + at as u16))
}

fn is_free(port: u32) -> bool {
    u16::try_from(port).is_ok_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice() {
        let rows: Vec<u16> = (0..50).map(|_| super::free_row(3).expect("free")).collect();
        let ports: HashSet<u16> = rows.iter().flat_map(|first| *first..*first + 3).collect();
        assert_eq!(ports.len(), 150);
    }
}
