//! A small HTTP proxy before an object store, which can be told to be ill.
//!
//! One request a connection: it asks the store to close after each answer, so that an answer ends where the store says so.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is wrong with the store. Puts are PUT and POST, reads are GETs of objects (not listings).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nobody answers.
    Down,
    /// Every answer comes late.
    Slow(Duration),
    /// 503 SlowDown to everything.
    Overloaded,
    /// Reads end in the middle of the body.
    Truncated,
    /// One byte of each body that is read is another.
    CorruptReads,
    /// One byte of each body that is put is another.
    CorruptPuts,
    /// Reads find nothing.
    Vanished,
}

/// Ends with this value.
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: u16,
    fault: Mutex<Fault>,
    stopped: AtomicBool,
    /// Requests that a fault has hit.
    hit: AtomicU64,
    puts: AtomicU64,
    /// First lines of the puts that have reached the store.
    lines: Mutex<Vec<String>>,
}

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>told so by the test</Message></Error>";
const NO_SUCH_KEY: &str = "<Error><Code>NoSuchKey</Code><Message>told so by the test</Message></Error>";
const PATIENCE: Duration = Duration::from_secs(60);

impl FaultProxy {
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            upstream,
            fault: Mutex::new(Fault::None),
            stopped: AtomicBool::new(false),
            hit: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            lines: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A client that goes away in the middle is no concern of the proxy's.
                std::thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().expect("no panic") = fault;
        self.shared.hit.store(0, Ordering::SeqCst);
    }

    /// Requests that the present fault has hit.
    pub fn hit(&self) -> u64 {
        self.shared.hit.load(Ordering::SeqCst)
    }

    /// First lines of the puts that have reached the store since the last call, in the order of their coming.
    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lines.lock().expect("no panic"))
    }

    /// Bodies that have reached the store.
    pub fn puts(&self) -> u64 {
        self.shared.puts.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener; if that fails, the thread ends with the program.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Message {
    /// With the empty line that ends it.
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    fn first_line(&self) -> String {
        String::from_utf8_lossy(&self.head).lines().next().unwrap_or_default().to_owned()
    }

    fn is_put(&self) -> bool {
        let line = self.first_line();
        line.starts_with("PUT ") || line.starts_with("POST ")
    }

    /// Of an object; a listing has parameters.
    fn is_read(&self) -> bool {
        let line = self.first_line();
        line.starts_with("GET ") && !line.contains('?') && line.contains("/parts/")
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        let fault = *self.fault.lock().expect("no panic");
        if fault == Fault::Down {
            self.hit.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let Some(mut request) = read_request(&mut client)? else { return Ok(()) };
        let (put, read) = (request.is_put(), request.is_read());
        let hits = match fault {
            Fault::None | Fault::Down => false,
            Fault::Slow(_) | Fault::Overloaded => true,
            Fault::Truncated | Fault::CorruptReads | Fault::Vanished => read,
            Fault::CorruptPuts => put && !request.body.is_empty(),
        };
        self.hit.fetch_add(u64::from(hits), Ordering::SeqCst);
        match fault {
            Fault::Overloaded => return answer(&mut client, "503 Service Unavailable", SLOW_DOWN),
            Fault::Vanished if read => return answer(&mut client, "404 Not Found", NO_SUCH_KEY),
            Fault::CorruptPuts if hits => flip_middle(&mut request.body),
            _ => {}
        }
        if let Fault::Slow(pause) = fault {
            std::thread::sleep(pause);
        }
        self.puts.fetch_add(u64::from(put), Ordering::SeqCst);
        if put {
            self.lines.lock().expect("no panic").push(request.first_line());
        }
        let mut reply = self.ask(&request)?;
        match fault {
            Fault::CorruptReads if read => flip_middle(&mut reply.body),
            Fault::Truncated if read => reply.body.truncate(reply.body.len() / 2),
            _ => {}
        }
        client.write_all(&reply.head)?;
        client.write_all(&reply.body)
    }

    fn ask(&self, request: &Message) -> std::io::Result<Message> {
        let mut store = TcpStream::connect(("127.0.0.1", self.upstream))?;
        store.set_read_timeout(Some(PATIENCE))?;
        let end = request.head.len() - 2;
        store.write_all(&request.head[..end])?;
        store.write_all(b"Connection: close\r\n\r\n")?;
        store.write_all(&request.body)?;
        let mut all = Vec::new();
        store.read_to_end(&mut all)?;
        let end = end_of_head(&all).ok_or(ErrorKind::InvalidData)?;
        let body = all.split_off(end);
        Ok(Message { head: all, body })
    }
}

/// `None` if the client closes instead.
fn read_request(client: &mut TcpStream) -> std::io::Result<Option<Message>> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = end_of_head(&head) {
            break end;
        }
        let mut piece = [0; 16 << 10];
        match client.read(&mut piece)? {
            0 => return Ok(None),
            read => head.extend_from_slice(&piece[..read]),
        }
    };
    let mut body = head.split_off(end);
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let missing = length.unwrap_or(0).saturating_sub(body.len());
    let there = body.len();
    body.resize(there + missing, 0);
    client.read_exact(&mut body[there..])?;
    Ok(Some(Message { head, body }))
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn flip_middle(body: &mut [u8]) {
    let middle = body.len() / 2;
    if let Some(byte) = body.get_mut(middle) {
        *byte ^= 0x55;
    }
}

fn answer(client: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
