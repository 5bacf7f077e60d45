//! The beginning of a read's answer, kept back while the statement could still be repeated on another node.
//!
//! A node announces a result long before its first row: an empty block with the columns (the *header*), and then progress
//! for as long as it works. Once the client has the header, no other node can answer in its place. So the header waits
//! for what follows it; progress, logs and profile events pass, for they may come from two nodes without harm.
//! Nothing of a message goes out before all of it is there, so that the client is always between two packets.

use moorhouse_engine::native::framing::Mark;

use super::packet::answer;
use crate::limits;

/// What was kept back so far.
#[derive(Debug, Default)]
pub struct Head {
    header: Vec<u8>,
    message: Vec<u8>,
    over: bool,
}

impl Head {
    /// For an answer that is passed on as it comes.
    pub fn over() -> Self {
        Self { over: true, ..Self::default() }
    }

    /// The client has seen a part of the answer that no other node may give again.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Takes the answer's next bytes, up to `mark`; what may go out now is added to `out`.
    pub fn take(&mut self, bytes: &[u8], mark: Option<Mark>, out: &mut Vec<u8>) {
        if self.over {
            return out.extend_from_slice(bytes);
        }
        self.message.extend_from_slice(bytes);
        match mark {
            _ if self.message.len() > limits::ANSWER_HEAD_BYTES => self.end(out),
            Some(Mark::Start(kind)) if !self.may_wait(kind.0) => self.end(out),
            Some(Mark::End(kind)) if kind.0 == answer::DATA => self.header = std::mem::take(&mut self.message),
            Some(Mark::End(_)) => out.append(&mut self.message),
            _ => {}
        }
    }

    fn may_wait(&self, kind: u8) -> bool {
        match kind {
            answer::DATA => self.header.is_empty(),
            answer::PROGRESS | answer::LOG | answer::PROFILE_EVENTS | answer::TIMEZONE => true,
            _ => false,
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.over = true;
        out.append(&mut self.header);
        out.append(&mut self.message);
    }
}

#[cfg(test)]
mod tests {
    use moorhouse_engine::native::framing::Kind;

    use super::*;

    /// What goes out after each of these messages, which come in two pieces each.
    fn passed(messages: &[(u8, &str)]) -> Vec<String> {
        let mut head = Head::default();
        let step = |(kind, rest): &(u8, &str)| {
            let mut out = Vec::new();
            head.take(&[*kind], Some(Mark::Start(Kind(*kind))), &mut out);
            head.take(rest.as_bytes(), Some(Mark::End(Kind(*kind))), &mut out);
            String::from_utf8(out).expect("text").replace(|kind: char| kind.is_control(), "")
        };
        messages.iter().map(step).collect()
    }

    #[test]
    fn a_header_waits_for_what_follows_it() {
        use answer::{DATA, END_OF_STREAM, EXCEPTION, PROGRESS};
        let told = passed(&[(PROGRESS, "p1"), (DATA, "header"), (PROGRESS, "p2"), (DATA, "rows"), (DATA, "more")]);
        assert_eq!(told, ["p1", "", "p2", "headerrows", "more"]);
        assert_eq!(passed(&[(DATA, "header"), (END_OF_STREAM, "")]), ["", "header"]);
        assert_eq!(passed(&[(DATA, "header"), (EXCEPTION, "no")]), ["", "headerno"]);
        assert_eq!(passed(&[(EXCEPTION, "no")]), ["no"]);
    }

    #[test]
    fn a_long_message_does_not_wait() {
        let long = "x".repeat(limits::ANSWER_HEAD_BYTES);
        assert!(passed(&[(answer::DATA, &long), (answer::DATA, "rows")]) == [long.as_str(), "rows"]);
    }
}
