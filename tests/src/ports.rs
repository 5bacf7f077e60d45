//! Free ports for servers that must be told their port.
//!
//! They come from below the kernel's range for outgoing connections, so that none of those takes one in between, and no
//! two tests of this process get the same.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const LAST: u32 = 32_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The first of `length` ports in a row that nobody listens on.
///
/// # Panics
/// If there is no such row.
pub fn free_ports(length: u16) -> u16 {
    let length = u32::from(length);
    // Test programs that run at the same time begin at different places.
    let offset = std::process::id().wrapping_mul(101) % (LAST - FIRST);
    for _ in 0..1000 {
        let taken = NEXT.fetch_add(length, Ordering::Relaxed);
        let base = FIRST + (offset + taken) % (LAST - FIRST - length);
        if (base..base + length).all(is_free) {
            return u16::try_from(base).expect("below 65536");
        }
    }
    panic!("no {length} free ports in a row between {FIRST} and {LAST}");
}

fn is_free(port: u32) -> bool {
    u16::try_from(port).is_ok_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}
