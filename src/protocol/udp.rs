//! The UDP tracker protocol (BEP 15): big-endian fields at fixed offsets.

use super::DEFAULT_NUMWANT;
use crate::base::addresses::Named;
use crate::sys::chunks::as_chunks;
use crate::tracker::{Announce, Counts, Event, InfoHash, Peer, Role};
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

/// Takes the place of the connection id in a connect request.
const PROTOCOL_ID: u64 = 0x0417_2710_1980;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// Torrents in a scrape. A reply leaves out those beyond.
pub const MAX_SCRAPED: usize = 74;

/// Bytes of an announce reply before its peers.
pub const ANNOUNCE_HEADER: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub connection: u64,
    pub transaction: u32,
    pub action: Action<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    Connect,
    /// With the peer id. The fields `downloaded`, `uploaded` and `key` have no effect.
    Announce(Announce, &'a [u8; 20]),
    /// 1 to [`MAX_SCRAPED`] torrents.
    Scrape(&'a [InfoHash]),
}

/// Parses a datagram from this address. None: it is too short for its action, has no known action, or is a connect
/// without the protocol's id. Further bytes are ignored: BEP 41's options, and what some clients append.
pub fn parse(datagram: &[u8], source: IpAddr) -> Option<Datagram<'_>> {
    let (head, body) = datagram.split_first_chunk::<16>()?;
    let connection = u64::from_be_bytes(field(head, 0)?);
    let action = match u32::from_be_bytes(field(head, 8)?) {
        CONNECT if connection == PROTOCOL_ID => Action::Connect,
        ANNOUNCE => parse_announce(body, source)?,
        SCRAPE => Action::Scrape(parse_scrape(body)?),
        _ => return None,
    };
    Some(Datagram {
        connection,
        transaction: u32::from_be_bytes(field(head, 12)?),
        action,
    })
}

/// The info-hash of a datagram that looks like an announce.
pub fn announced_hash(datagram: &[u8]) -> Option<&InfoHash> {
    let is_announce = u32::from_be_bytes(field(datagram, 8)?) == ANNOUNCE;
    is_announce.then(|| datagram.get(16..)?.first_chunk())?
}

/// The address that an announce names for an IPv4 client. The reply has peers of the source's family, so that no other
/// client can have another address.
pub fn named(datagram: &[u8], source: IpAddr) -> Named {
    let ip: Option<[u8; 4]> = field(datagram, 84).filter(|ip| *ip != [0; 4]);
    let ip = ip.filter(|_| source.to_canonical().is_ipv4());
    Named {
        ip: ip.map(IpAddr::from),
        ..Named::default()
    }
}

/// info_hash 20, peer_id 20, downloaded 8, left 8, uploaded 8, event 4, ip 4, key 4, num_want 4, port 2.
fn parse_announce(body: &[u8], source: IpAddr) -> Option<Action<'_>> {
    let (body, _) = body.split_first_chunk::<82>()?;
    // A negative number is the default.
    let num_want = usize::try_from(i32::from_be_bytes(field(body, 76)?));
    let announce = Announce {
        info_hash: field(body, 0)?,
        peer: Peer::new(source, u16::from_be_bytes(field(body, 80)?)),
        role: Role::of_left(Some(u64::from_be_bytes(field(body, 48)?))),
        event: match u32::from_be_bytes(field(body, 64)?) {
            1 => Event::Completed,
            2 => Event::Started,
            3 => Event::Stopped,
            _ => Event::None,
        },
        want: num_want.unwrap_or(DEFAULT_NUMWANT),
        hint: None,
    };
    Some(Action::Announce(announce, body[20..].first_chunk()?))
}

fn parse_scrape(body: &[u8]) -> Option<&[InfoHash]> {
    let (hashes, _) = as_chunks(body);
    let hashes = &hashes[..hashes.len().min(MAX_SCRAPED)];
    (!hashes.is_empty()).then_some(hashes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Fills a buffer from its front, and leaves out what does not fit. Returns the bytes written.
fn fill(buffer: &mut [u8], parts: &[&[u8]]) -> usize {
    let mut length = 0;
    for part in parts {
        if let Some(room) = buffer.get_mut(length..length + part.len()) {
            room.copy_from_slice(part);
            length += part.len();
        }
    }
    length
}

fn fill_numbers<const N: usize>(buffer: &mut [u8], numbers: [u32; N]) -> usize {
    fill(buffer, &[numbers.map(u32::to_be_bytes).as_flattened()])
}

/// `action 0, transaction_id, connection_id`: 16 bytes. Returns the reply's length, as the writers below do.
pub fn write_connect(buffer: &mut [u8], transaction: u32, connection: u64) -> usize {
    let [action, transaction] = [CONNECT, transaction].map(u32::to_be_bytes);
    fill(buffer, &[&action, &transaction, &connection.to_be_bytes()])
}

/// `action 1, transaction_id, interval, leechers, seeders`; the peers follow at [`ANNOUNCE_HEADER`].
pub fn write_announce(buffer: &mut [u8], transaction: u32, interval: u32, counts: Counts) -> usize {
    let (leechers, seeders) = (counts.leechers, counts.seeders);
    let header: [u32; ANNOUNCE_HEADER / 4] = [ANNOUNCE, transaction, interval, leechers, seeders];
    fill_numbers(buffer, header)
}

/// `action 2, transaction_id`, then `seeders, completed, leechers` of each torrent in the order of the request.
pub fn write_scrape(buffer: &mut [u8], transaction: u32, counts: &[Counts]) -> usize {
    let mut length = fill_numbers(buffer, [SCRAPE, transaction]);
    for counts in counts {
        let room = buffer.get_mut(length..).unwrap_or_default();
        length += fill_numbers(room, [counts.seeders, counts.downloaded, counts.leechers]);
    }
    length
}

/// `action 3, transaction_id, message`.
pub fn write_error(buffer: &mut [u8], transaction: u32, message: fmt::Arguments) -> usize {
    let length = fill_numbers(buffer, [ERROR, transaction]);
    let mut room = buffer.get_mut(length..).unwrap_or_default();
    let free = room.len();
    // What does not fit is left out.
    let _ = room.write_fmt(message);
    length + free - room.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    const SOURCE: [u8; 4] = [192, 0, 2, 1];

    fn parse(datagram: &[u8]) -> Option<Datagram<'_>> {
        super::parse(datagram, SOURCE.into())
    }

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
    fn announce_is_read_field_by_field() {
        let datagram = announce();
        assert_eq!(datagram.len(), 98);
        let announce = Announce {
            info_hash: [0xaa; 20],
            peer: Peer::new(SOURCE.into(), 6881),
            role: Role::Leecher,
            event: Event::Started,
            want: DEFAULT_NUMWANT,
            hint: None,
        };
        let expected = Datagram {
            connection: 0x0123_4567_89ab_cdef,
            transaction: 0xcafe_babe,
            action: Action::Announce(announce, b"-XX0001-abcdefghijkl"),
        };
        assert_eq!(parse(&datagram), Some(expected));
        let mut longer = datagram.clone();
        longer.extend_from_slice(b"\x02\x09/announce\x00");
        assert_eq!(parse(&longer), Some(expected), "options are skipped");
        let mut other = datagram;
        other[64..72].fill(0);
        other[92..96].copy_from_slice(&7_u32.to_be_bytes());
        match parse(&other).map(|datagram| datagram.action) {
            Some(Action::Announce(announce, _)) => {
                assert_eq!((announce.role, announce.want), (Role::Seeder, 7));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_named_address_is_that_of_an_ipv4_client() {
        let mut datagram = announce();
        let ip =
            |datagram: &[u8], source: &str| named(datagram, source.parse().expect("is one")).ip;
        assert_eq!(ip(&datagram, "192.0.2.1"), Some([9; 4].into()));
        assert_eq!(ip(&datagram, "::ffff:192.0.2.1"), Some([9; 4].into()));
        assert_eq!(ip(&datagram, "2001:db8::1"), None);
        datagram[84..88].fill(0);
        assert_eq!(ip(&datagram, "192.0.2.1"), None);
        assert_eq!(ip(&datagram[..87], "192.0.2.1"), None);
    }

    #[test]
    fn unknown_events_are_none() {
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
                Some(Action::Announce(announce, _)) => assert_eq!(announce.event, event),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn connect_requires_the_protocol_id() {
        let mut datagram = PROTOCOL_ID.to_be_bytes().to_vec();
        datagram.extend_from_slice(&[0, 0, 0, 0, 1, 2, 3, 4]);
        let request = parse(&datagram).expect("is a connect");
        assert_eq!(request.action, Action::Connect);
        assert_eq!(request.transaction, 0x0102_0304);
        datagram[7] ^= 1;
        assert_eq!(parse(&datagram), None);
    }

    #[test]
    fn scrape_has_1_to_74_torrents() {
        let mut datagram = vec![0; 16];
        datagram[11] = 2;
        assert_eq!(parse(&datagram), None);
        for count in 1..80 {
            datagram.extend_from_slice(&[count; 20]);
            let Some(Action::Scrape(hashes)) = parse(&datagram).map(|r| r.action) else {
                panic!("is a scrape");
            };
            assert_eq!(hashes.len(), usize::from(count).min(MAX_SCRAPED));
            assert_eq!(hashes.last(), Some(&[count.min(74); 20]));
        }
        datagram.truncate(16 + 20 + 19);
        let Some(Action::Scrape(hashes)) = parse(&datagram).map(|r| r.action) else {
            panic!("is a scrape");
        };
        assert_eq!(hashes.len(), 1, "half a hash is no hash");
    }

    #[test]
    fn truncated_announce_is_invalid() {
        let datagram = announce();
        for length in 0..98 {
            assert_eq!(parse(&datagram[..length]), None);
        }
    }

    #[test]
    fn parser_survives_mutated_datagrams() {
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
    fn replies_have_the_layout_of_bep_15() {
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
        let length = write_scrape(&mut buffer, 9, &[counts, Counts::default()]);
        let expected =
            b"\0\0\0\x02\0\0\0\x09\0\0\0\x05\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(&buffer[..length], expected);
        let length = write_error(&mut buffer, 9, format_args!("no {}", 7));
        assert_eq!(&buffer[..length], b"\0\0\0\x03\0\0\0\x09no 7");
    }
}
