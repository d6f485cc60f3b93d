//! The UDP tracker protocol (BEP 15): big-endian fields at fixed offsets.

use crate::sys::chunks::as_chunks;
use crate::tracker::{Counts, Event, InfoHash};

/// What a connect request has in place of a connection id.
const PROTOCOL: u64 = 0x0417_2710_1980;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// Torrents in one scrape; more are left out of the reply.
pub const MOST_SCRAPED: usize = 74;

/// Bytes of an announce reply before its peers.
pub const ANNOUNCE_HEADER: usize = 20;

/// A request's first 16 bytes, and the rest by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub connection: u64,
    pub transaction: u32,
    pub action: Action<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Its connection id is the protocol's number; there is nothing to verify.
    Connect,
    Announce(Announce<'a>),
    /// At least one, at most [`MOST_SCRAPED`].
    Scrape(&'a [InfoHash]),
}

/// The fields that matter; `downloaded`, `uploaded`, `ip` and `key` do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce<'a> {
    pub info_hash: &'a InfoHash,
    pub peer_id: &'a [u8; 20],
    pub left: u64,
    pub event: Event,
    /// Negative for the tracker's default.
    pub num_want: i32,
    pub port: u16,
}

/// Why a datagram is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Shorter than its action needs.
    Short,
    /// Not connect, announce or scrape; or a connect without the protocol's number.
    Unknown,
}

/// Parses a datagram. Bytes beyond what the action needs are ignored: BEP 41's options, and what some
/// clients append.
pub fn parse(datagram: &[u8]) -> Result<Request<'_>, Invalid> {
    let (head, body) = datagram.split_first_chunk::<16>().ok_or(Invalid::Short)?;
    let connection = u64::from_be_bytes(bytes(head, 0)?);
    let action = match u32::from_be_bytes(bytes(head, 8)?) {
        CONNECT if connection == PROTOCOL => Action::Connect,
        ANNOUNCE => Action::Announce(parse_announce(body)?),
        SCRAPE => Action::Scrape(parse_scrape(body)?),
        _ => return Err(Invalid::Unknown),
    };
    Ok(Request {
        connection,
        transaction: u32::from_be_bytes(bytes(head, 12)?),
        action,
    })
}

/// The info-hash of a datagram that looks like an announce.
pub fn announced_hash(datagram: &[u8]) -> Option<&InfoHash> {
    let action: [u8; 4] = bytes(datagram, 8).ok()?;
    let is_announce = u32::from_be_bytes(action) == ANNOUNCE;
    is_announce.then(|| datagram.get(16..)?.first_chunk())?
}

/// From the info-hash on: info_hash 20, peer_id 20, downloaded 8, left 8, uploaded 8, event 4, ip 4,
/// key 4, num_want 4, port 2.
fn parse_announce(body: &[u8]) -> Result<Announce<'_>, Invalid> {
    let (body, _) = body.split_first_chunk::<82>().ok_or(Invalid::Short)?;
    let event = match u32::from_be_bytes(bytes(body, 64)?) {
        1 => Event::Completed,
        2 => Event::Started,
        3 => Event::Stopped,
        _ => Event::None,
    };
    Ok(Announce {
        info_hash: body.first_chunk().ok_or(Invalid::Short)?,
        peer_id: body[20..].first_chunk().ok_or(Invalid::Short)?,
        left: u64::from_be_bytes(bytes(body, 48)?),
        event,
        num_want: i32::from_be_bytes(bytes(body, 76)?),
        port: u16::from_be_bytes(bytes(body, 80)?),
    })
}

fn parse_scrape(body: &[u8]) -> Result<&[InfoHash], Invalid> {
    let (hashes, _) = as_chunks(body);
    match hashes.len() {
        0 => Err(Invalid::Short),
        count => Ok(&hashes[..count.min(MOST_SCRAPED)]),
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N], Invalid> {
    let field = from.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or(Invalid::Short)
}

/// Writes a reply from the front of a buffer; what does not fit is left out.
struct Writer<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(room) = self.buffer.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }

    fn put_u32(&mut self, number: u32) {
        self.put(&number.to_be_bytes());
    }
}

fn start(buffer: &mut [u8], action: u32, transaction: u32) -> Writer<'_> {
    let mut writer = Writer { buffer, length: 0 };
    writer.put_u32(action);
    writer.put_u32(transaction);
    writer
}

/// `action 0, transaction_id, connection_id`: 16 bytes. Returns the reply's length, as all of these.
pub fn write_connect(buffer: &mut [u8], transaction: u32, connection: u64) -> usize {
    let mut writer = start(buffer, CONNECT, transaction);
    writer.put(&connection.to_be_bytes());
    writer.length
}

/// `action 1, transaction_id, interval, leechers, seeders`; the peers follow at [`ANNOUNCE_HEADER`].
pub fn write_announce(buffer: &mut [u8], transaction: u32, interval: u32, counts: Counts) -> usize {
    let mut writer = start(buffer, ANNOUNCE, transaction);
    writer.put_u32(interval);
    writer.put_u32(counts.leechers);
    writer.put_u32(counts.seeders);
    writer.length
}

/// `action 2, transaction_id`, then `seeders, completed, leechers` for each torrent in the order of the
/// request.
pub fn write_scrape(
    buffer: &mut [u8],
    transaction: u32,
    counts: impl Iterator<Item = Counts>,
) -> usize {
    let mut writer = start(buffer, SCRAPE, transaction);
    for counts in counts {
        writer.put_u32(counts.seeders);
        writer.put_u32(counts.downloaded);
        writer.put_u32(counts.leechers);
    }
    writer.length
}

/// `action 3, transaction_id, message`.
pub fn write_error(buffer: &mut [u8], transaction: u32, message: &str) -> usize {
    let mut writer = start(buffer, ERROR, transaction);
    writer.put(message.as_bytes());
    writer.length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// A leecher announces that it has started, field by field as the BEP lists them.
    fn announce() -> Vec<u8> {
        let fields: [&[u8]; 13] = [
            &0x0123_4567_89ab_cdef_u64.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &0xcafe_babe_u32.to_be_bytes(),
            &[0xaa; 20],
            b"-XX0001-abcdefghijkl",
            &1_u64.to_be_bytes(),
            &u64::MAX.to_be_bytes(),
            &3_u64.to_be_bytes(),
            &2_u32.to_be_bytes(),
            &[9, 9, 9, 9],
            &7_u32.to_be_bytes(),
            &(-1_i32).to_be_bytes(),
            &6881_u16.to_be_bytes(),
        ];
        fields.concat()
    }

    #[test]
    fn an_announce_is_read_field_by_field() {
        let datagram = announce();
        assert_eq!(datagram.len(), 98);
        let expected = Request {
            connection: 0x0123_4567_89ab_cdef,
            transaction: 0xcafe_babe,
            action: Action::Announce(Announce {
                info_hash: &[0xaa; 20],
                peer_id: b"-XX0001-abcdefghijkl",
                left: u64::MAX,
                event: Event::Started,
                num_want: -1,
                port: 6881,
            }),
        };
        assert_eq!(parse(&datagram), Ok(expected));
        let mut longer = datagram.clone();
        longer.extend_from_slice(b"\x02\x09/announce\x00");
        assert_eq!(parse(&longer), Ok(expected), "options are skipped");
    }

    #[test]
    fn events_beyond_the_known_are_none() {
        let mut datagram = announce();
        let expected = [
            (0, Event::None),
            (1, Event::Completed),
            (2, Event::Started),
            (3, Event::Stopped),
            (4, Event::None),
            (u32::MAX, Event::None),
        ];
        for (number, event) in expected {
            datagram[80..84].copy_from_slice(&number.to_be_bytes());
            match parse(&datagram).map(|r| r.action) {
                Ok(Action::Announce(announce)) => assert_eq!(announce.event, event),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn connects_need_the_number_and_nothing_more() {
        let mut datagram = PROTOCOL.to_be_bytes().to_vec();
        datagram.extend_from_slice(&[0, 0, 0, 0, 1, 2, 3, 4]);
        let request = parse(&datagram).expect("is a connect");
        assert_eq!(request.action, Action::Connect);
        assert_eq!(request.transaction, 0x0102_0304);
        datagram[7] ^= 1;
        assert_eq!(parse(&datagram), Err(Invalid::Unknown));
    }

    #[test]
    fn a_scrape_has_1_to_74_torrents() {
        let mut datagram = vec![0; 16];
        datagram[11] = 2;
        assert_eq!(parse(&datagram), Err(Invalid::Short));
        for count in 1..80 {
            datagram.extend_from_slice(&[count; 20]);
            let Ok(Action::Scrape(hashes)) = parse(&datagram).map(|r| r.action) else {
                panic!("is a scrape");
            };
            assert_eq!(hashes.len(), usize::from(count).min(MOST_SCRAPED));
            assert_eq!(hashes.last(), Some(&[count.min(74); 20]));
        }
        datagram.truncate(16 + 20 + 19);
        let Ok(Action::Scrape(hashes)) = parse(&datagram).map(|r| r.action) else {
            panic!("is a scrape");
        };
        assert_eq!(hashes.len(), 1, "half a hash is no hash");
    }

    #[test]
    fn every_truncation_is_short() {
        let datagram = announce();
        for length in 0..98 {
            assert_eq!(parse(&datagram[..length]), Err(Invalid::Short));
        }
    }

    #[test]
    fn no_mutation_does_harm() {
        let mut random = Random::seeded(31);
        let good = announce();
        for _ in 0..200_000 {
            let mut datagram = good.clone();
            datagram.truncate(random.below(120));
            for _ in 0..random.below(6) {
                let at = random.below(datagram.len().max(1));
                if let Some(byte) = datagram.get_mut(at) {
                    *byte = random.draw() as u8;
                }
            }
            let _ = parse(&datagram);
        }
    }

    #[test]
    fn replies_are_laid_out_as_the_bep_says() {
        let mut buffer = [0; 64];
        let counts = Counts {
            seeders: 5,
            leechers: 6,
            downloaded: 7,
        };
        let length = write_connect(&mut buffer, 0x0102_0304, 0x1112_1314_1516_1718);
        let expected = b"\0\0\0\0\x01\x02\x03\x04\x11\x12\x13\x14\x15\x16\x17\x18";
        assert_eq!(&buffer[..length], expected);
        let length = write_announce(&mut buffer, 9, 1800, counts);
        let expected = b"\0\0\0\x01\0\0\0\x09\0\0\x07\x08\0\0\0\x06\0\0\0\x05";
        assert_eq!(&buffer[..length], expected);
        assert_eq!(length, ANNOUNCE_HEADER);
        let length = write_scrape(&mut buffer, 9, [counts, Counts::default()].into_iter());
        let expected =
            b"\0\0\0\x02\0\0\0\x09\0\0\0\x05\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(&buffer[..length], expected);
        let length = write_error(&mut buffer, 9, "no");
        assert_eq!(&buffer[..length], b"\0\0\0\x03\0\0\0\x09no");
    }
}
