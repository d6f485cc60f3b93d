//! Query strings of announces and scrapes.

use announced::protocol::query::{self, Encoded};
use announced::tracker::Event;
use std::net::{IpAddr, Ipv4Addr};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub fn run(data: &[u8]) {
    let announce = query::announce(data, SOURCE);
    let mut hashes = Vec::new();
    let scrape = query::scrape(data, &mut hashes);
    assert!(hashes.is_sorted_by(|a, b| a < b));
    query::named(data);
    query::peer_id(data);
    let has_hash = query::names_torrent(data);
    for (name, value) in pairs(data) {
        if !data.contains(&b'?') {
            let first = pairs(data).find(|(other, _)| decoded(other) == decoded(name));
            let first = first.expect("itself").1;
            let known = decoded(name).filter(|name| name.len() <= 24);
            let found = known.and_then(|name| query::value(data, &name));
            let expected = decoded(first).unwrap_or_default();
            assert!(found.is_none_or(|found| found == expected), "{value:?}");
        }
    }
    if let Ok(announce) = announce {
        assert!(has_hash);
        assert!(scrape.is_err() || hashes == [announce.info_hash]);
        let guess = query::guess_hash(&[b"GET /announce?", data].concat());
        assert!(guess.is_none_or(|guess| guess == announce.info_hash));
        let again = canonical(&announce);
        let again = query::announce(again.as_bytes(), SOURCE);
        assert_eq!(again, Ok(announce));
    } else if scrape.is_ok() && !hashes.is_empty() {
        assert!(has_hash);
    }
    // Percent-encoded bytes mean the same as the bytes.
    if !data.contains(&b'?') {
        let encoded = encoded(data);
        assert_eq!(query::announce(&encoded, SOURCE), announce);
        assert_eq!(query::named(&encoded), query::named(data));
        let mut others = Vec::new();
        assert_eq!(query::scrape(&encoded, &mut others), scrape);
        assert_eq!(others, hashes);
    }
}

fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = query.split(|byte| *byte == b'&');
    pairs.map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default();
        (name, parts.next().unwrap_or_default())
    })
}

fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    Encoded(bytes).collect()
}

/// The query of the same announce with every parameter that counts.
fn canonical(announce: &announced::tracker::Announce) -> String {
    let hash: String = announce
        .info_hash
        .iter()
        .map(|b| format!("%{b:02x}"))
        .collect();
    let [.., high, low] = announce.peer.endpoint() else {
        panic!("an endpoint has a port");
    };
    let port = u16::from_be_bytes([*high, *low]);
    let event = match announce.event {
        Event::None => "",
        Event::Started => "started",
        Event::Completed => "completed",
        Event::Stopped => "stopped",
    };
    let left = 1 - announce.role as u8;
    let want = announce.want;
    format!("info_hash={hash}&port={port}&event={event}&left={left}&numwant={want}")
}

/// All bytes of names and values as percent escapes, but for those that stand in one or are not valid.
fn encoded(query: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut is_value = false;
    let mut rest = query;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'&' => is_value = false,
            b'=' if !is_value => is_value = true,
            b'%' => {
                out.push(b'%');
                let digits = after.len().min(2);
                out.extend_from_slice(&after[..digits]);
                rest = &after[digits..];
                // Digits of a broken escape may not be a separator.
                if after[..digits].iter().any(|b| b"&=".contains(b)) {
                    out.truncate(out.len() - digits);
                    rest = after;
                }
                continue;
            }
            b'+' => {
                out.extend_from_slice(b"%20");
                continue;
            }
            _ => {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
                continue;
            }
        }
        out.push(byte);
    }
    out
}
