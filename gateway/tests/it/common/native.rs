//! A client of the native protocol that shows every packet: with chunks, so that packets need not be understood.

use moorhouse_engine::native::framing::{Framing, Mark};
use moorhouse_engine::native::handshake::{Addendum, ClientHello, ServerHello};
use moorhouse_engine::native::wire::{Reader, in_one_chunk, put_number, put_text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const REVISION: u64 = 54_475;

/// One packet: its kind and all of its bytes.
#[derive(Debug, Clone)]
pub struct Packet(pub Vec<u8>);

impl Packet {
    pub fn kind(&self) -> u8 {
        self.0[0]
    }

    /// Code and text, of a whole exception.
    pub fn exception(&self) -> Option<(i32, String)> {
        if self.kind() != 2 {
            return None;
        }
        let code = i32::from_le_bytes(self.0.get(1..5)?.try_into().ok()?);
        let mut reader = Reader::new(&self.0[5..]);
        let _name = reader.text().ok()?;
        let text = String::from_utf8_lossy(reader.text().ok()?).into_owned();
        reader.text().ok()?;
        Some((code, text))
    }
}

#[derive(Debug)]
pub struct Answer(pub Vec<Packet>);

impl Answer {
    pub fn exception(&self) -> Option<(i32, String)> {
        self.0.last().and_then(Packet::exception)
    }

    pub fn is_whole(&self) -> bool {
        self.0.last().is_some_and(|packet| packet.kind() == 5)
    }

    /// Whether one of the data packets has this text.
    pub fn shows(&self, text: &str) -> bool {
        let data = self.0.iter().filter(|packet| packet.kind() == 1);
        data.into_iter().any(|packet| packet.0.windows(text.len()).any(|window| window == text.as_bytes()))
    }

    /// `self` must be a whole answer.
    pub fn ok(self) -> Self {
        assert!(self.is_whole(), "{:?}", self.exception());
        self
    }
}

pub struct Native {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    pub hello: ServerHello,
}

impl Native {
    pub async fn sales(address: &str) -> Self {
        Self::login(address, "sales", "secret").await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The error is the exception that came instead of a hello.
    pub async fn login(address: &str, user: &str, password: &str) -> Result<Self, (i32, String)> {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let text = |text: &str| text.as_bytes().to_vec();
        let hello = ClientHello {
            name: text("test"),
            major: 26,
            minor: 7,
            // More than the gateway knows.
            revision: REVISION + 1000,
            database: Vec::new(),
            user: text(user),
            password: text(password),
        };
        stream.write_all(&hello.write()).await.expect("it takes a hello");
        let mut buffer = Vec::new();
        let hello = loop {
            assert!(stream.read_buf(&mut buffer).await.expect("it answers") > 0, "it closes the connection");
            if let Some(exception) = Packet(buffer.clone()).exception() {
                return Err(exception);
            }
            if let Ok((hello, length)) = ServerHello::read(&buffer, REVISION) {
                assert_eq!(length, buffer.len());
                break hello;
            }
        };
        assert_eq!(hello.revision, REVISION, "no more than the gateway knows");
        let addendum =
            Addendum { quota_key: Vec::new(), send_chunked: true, receive_chunked: true, parallel_replicas: 4 };
        stream.write_all(&addendum.write(REVISION)).await.expect("it takes an addendum");
        Ok(Self { stream, buffer: Vec::new(), hello })
    }

    pub async fn send(&mut self, content: &[u8]) {
        self.stream.write_all(&in_one_chunk(content)).await.expect("it takes a packet");
    }

    pub async fn send_query(&mut self, id: &str, sql: &str, settings: &[(&str, &str)]) {
        self.send(&query(id, sql, settings)).await;
        self.send(&block(&[])).await;
    }

    /// The next packet; `None` at the end of the stream.
    pub async fn packet(&mut self) -> Option<Packet> {
        loop {
            let (mut framing, mut used, mut content) = (Framing::new(), 0, Vec::new());
            while used < self.buffer.len() {
                let piece = framing.piece(&self.buffer[used..]).expect("chunks");
                if piece.is_content {
                    content.extend_from_slice(&self.buffer[used..used + piece.length]);
                }
                used += piece.length;
                if matches!(piece.mark, Some(Mark::End(_))) {
                    self.buffer.drain(..used);
                    return Some(Packet(content));
                }
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// All packets up to the last of a statement.
    pub async fn answer(&mut self) -> Answer {
        let mut packets = Vec::new();
        while let Some(packet) = self.packet().await {
            let last = matches!(packet.kind(), 2 | 5);
            packets.push(packet);
            if last {
                break;
            }
        }
        Answer(packets)
    }

    pub async fn run(&mut self, sql: &str) -> Answer {
        self.send_query("", sql, &[]).await;
        self.answer().await
    }

    /// Sends these numbers as column `id`, in blocks of a thousand.
    pub async fn insert(&mut self, table: &str, numbers: &[u64]) -> Answer {
        self.send_query("", &format!("INSERT INTO {table} (id) VALUES"), &[]).await;
        loop {
            let packet = self.packet().await.expect("an answer");
            match packet.kind() {
                1 => break,
                2 => return Answer(vec![packet]),
                _ => {}
            }
        }
        for piece in numbers.chunks(1000) {
            self.send(&block(piece)).await;
        }
        self.send(&block(&[])).await;
        self.answer().await
    }
}

/// A Query packet.
pub fn query(id: &str, sql: &str, settings: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![1];
    put_text(&mut out, id.as_bytes());
    out.push(1);
    for text in ["", "", "0.0.0.0:0"] {
        put_text(&mut out, text.as_bytes());
    }
    out.extend_from_slice(&[0; 8]);
    out.push(1);
    for text in ["", "", "test"] {
        put_text(&mut out, text.as_bytes());
    }
    for number in [26, 7, REVISION] {
        put_number(&mut out, number);
    }
    put_text(&mut out, b"");
    // Depth, patch, no trace, replicas, query and line.
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    for (name, value) in settings {
        put_text(&mut out, name.as_bytes());
        out.push(0);
        put_text(&mut out, value.as_bytes());
    }
    // No more settings, no roles, no proof; complete, not compressed.
    out.extend_from_slice(&[0, 0, 0, 2, 0]);
    put_text(&mut out, sql.as_bytes());
    out.push(0);
    out
}

/// A Data packet with these numbers as column `id`; the empty one ends the data.
pub fn block(numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![2, 0, 1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];
    put_number(&mut out, u64::from(!numbers.is_empty()));
    put_number(&mut out, numbers.len() as u64);
    if !numbers.is_empty() {
        put_text(&mut out, b"id");
        put_text(&mut out, b"UInt64");
        out.push(0);
        out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    out
}
