//! A client's Query packet: found in the stream, and read as far as routing needs it.
//!
//! Layout: ClickHouse's `TCPHandler::processQuery`, `ClientInfo::read`, `BaseSettings::read`.

use super::wire::{Reader, Stop};

/// Settings go as texts with flags; before, each in its own type's encoding.
const REVISION_SETTINGS_AS_TEXTS: u64 = 54_429;
const QUERY: u64 = 1;
const NO_QUERY: u8 = 0;
const OVER_TCP: u8 = 1;
const OVER_HTTP: u8 = 2;
/// Names and values of settings; a statement has its own limit.
const LONGEST_SETTING: usize = 1024 * 1024;
const MOST_SETTINGS: usize = 10_000;
const LONGEST_NAME: usize = 128;
const MOST_TRIES: u32 = 2_000;

/// What a Query packet says. Its bytes are passed on as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub id: Vec<u8>,
    pub text: Vec<u8>,
    /// Its data packets, and the answer's, are compressed.
    pub compressed: bool,
    /// `param_x` as texts, in ClickHouse's quoted form.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a packet is not (yet) a Query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoQuery {
    Short,
    Malformed,
    /// The statement has so many bytes, more than allowed.
    TooLong(u64),
}

impl From<Stop> for NoQuery {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Short => Self::Short,
            Stop::Malformed => Self::Malformed,
        }
    }
}

impl Query {
    /// The packet at the front and its length. `longest` bounds the statement, in bytes.
    pub fn read(bytes: &[u8], revision: u64, longest: usize) -> Result<(Self, usize), NoQuery> {
        let mut reader = Reader::new(bytes);
        if reader.number()? != QUERY {
            return Err(NoQuery::Malformed);
        }
        let id = reader.short_text(LONGEST_SETTING)?.to_vec();
        skip_client_info(&mut reader, revision)?;
        if revision < REVISION_SETTINGS_AS_TEXTS {
            return typed_settings(&reader, &id, longest, &mut { MOST_TRIES });
        }
        settings(&mut reader)?;
        if revision >= 54_472 {
            let _roles = reader.short_text(LONGEST_SETTING)?;
        }
        if revision >= 54_441 {
            let _proof = reader.short_text(LONGEST_SETTING)?;
        }
        let (text, compressed) = statement(&mut reader, longest)?;
        let parameters = if revision >= 54_459 { settings(&mut reader)? } else { Vec::new() };
        Ok((Self { id, text, compressed, parameters }, reader.at))
    }
}

fn skip_client_info(reader: &mut Reader<'_>, revision: u64) -> Result<(), NoQuery> {
    if reader.byte()? == NO_QUERY {
        return Ok(());
    }
    let _user_id_address = (text(reader)?, text(reader)?, text(reader)?);
    if revision >= 54_449 {
        reader.bytes(8)?;
    }
    let interface = reader.byte()?;
    match interface {
        OVER_TCP => {
            let _os_user_host_name = (text(reader)?, text(reader)?, text(reader)?);
            let _version = (reader.number()?, reader.number()?, reader.number()?);
        }
        OVER_HTTP => {
            let _method_agent = (reader.byte()?, text(reader)?);
            for _ in [54_443, 54_447].iter().filter(|since| revision >= **since) {
                text(reader)?;
            }
        }
        _ => {}
    }
    let _quota_key = text(reader)?;
    if revision >= 54_448 {
        reader.number()?;
    }
    if interface == OVER_TCP && revision >= 54_401 {
        reader.number()?;
    }
    if revision >= 54_442 && reader.byte()? != 0 {
        reader.bytes(16 + 8)?;
        text(reader)?;
        reader.byte()?;
    }
    if revision >= 54_453 {
        let _replicas = (reader.number()?, reader.number()?, reader.number()?);
    }
    if revision >= 54_475 {
        let _query_line = (reader.number()?, reader.number()?);
    }
    Ok(())
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], NoQuery> {
    Ok(reader.short_text(LONGEST_SETTING)?)
}

type Settings = Vec<(Vec<u8>, Vec<u8>)>;

fn settings(reader: &mut Reader<'_>) -> Result<Settings, NoQuery> {
    let mut settings = Vec::new();
    loop {
        let name = text(reader)?;
        if name.is_empty() {
            return Ok(settings);
        }
        if settings.len() == MOST_SETTINGS {
            return Err(NoQuery::Malformed);
        }
        let _flags = reader.number()?;
        settings.push((name.to_vec(), text(reader)?.to_vec()));
    }
}

fn statement(reader: &mut Reader<'_>, longest: usize) -> Result<(Vec<u8>, bool), NoQuery> {
    let _stage = reader.number()?;
    let compressed = match reader.number()? {
        0 => false,
        1 => true,
        _ => return Err(NoQuery::Malformed),
    };
    let length = reader.number()?;
    match usize::try_from(length) {
        Ok(length) if length <= longest => Ok((reader.bytes(length)?.to_vec(), compressed)),
        _ => Err(NoQuery::TooLong(length)),
    }
}

/// Settings as old clients write them: a number or a text, and which of both only the setting's type knows. What was meant
/// is the reading that leads to a whole packet: a wrong one finds no setting's name where the next must begin. `tries` bounds
/// the work, which could double at each setting.
fn typed_settings(at: &Reader<'_>, id: &[u8], longest: usize, tries: &mut u32) -> Result<(Query, usize), NoQuery> {
    let mut reader = at.clone();
    let name = reader.short_text(LONGEST_NAME)?;
    if name.is_empty() {
        let (text, compressed) = statement(&mut reader, longest)?;
        return Ok((Query { id: id.to_vec(), text, compressed, parameters: Vec::new() }, reader.at));
    }
    let is_name = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if !is_name || *tries == 0 {
        return Err(NoQuery::Malformed);
    }
    *tries -= 1;
    let (mut as_number, mut as_text) = (reader.clone(), reader);
    let number = as_number.number().map_err(NoQuery::from);
    let number = number.and_then(|_| typed_settings(&as_number, id, longest, tries));
    if number.is_ok() {
        return number;
    }
    let read = text(&mut as_text).and_then(|_| typed_settings(&as_text, id, longest, tries));
    match (number, read) {
        (_, Ok(found)) => Ok(found),
        (Err(NoQuery::Short), _) | (_, Err(NoQuery::Short)) => Err(NoQuery::Short),
        (Err(too_long @ NoQuery::TooLong(_)), _) | (_, Err(too_long @ NoQuery::TooLong(_))) => Err(too_long),
        _ => Err(NoQuery::Malformed),
    }
}
