//! Reports of what is in the table: the largest torrents, the networks with most peers. They walk over
//! it in slices when somebody asks, so that nobody else waits and no announce pays for them.

use super::fill;
use super::modes::{BUSIEST, networks, v4_address};
use crate::busiest::Busiest;
use crate::proto::bencode::decimal;
use crate::random::Random;
use crate::sys::chunks::as_chunks;
use crate::tracker::{Cursor, Found, InfoHash, Table, Tracked};

/// Torrents or peers in a slice: about a tenth of a millisecond.
const SLICE: usize = 1000;

/// A walk underway.
pub enum Walk {
    Top(Top),
    Networks(Networks),
}

impl Walk {
    /// To the largest torrents, so many.
    pub fn top(amount: usize) -> Walk {
        Walk::Top(Top {
            amount,
            next: Some([0; 20]),
            rankings: ["peers", "seeds", "leechers"].map(|by| (by, Vec::new())),
        })
    }

    /// To the IPv4 networks with most peers. IPv6 has no networks of these sizes.
    pub fn networks(random: &mut Random) -> Walk {
        Walk::Networks(Networks {
            next: Some(Cursor::default()),
            busiest: Networks::PREFIXES.map(|_| Busiest::new(random)),
        })
    }

    /// Walks on, and at the end appends opentracker's text of it; whether there is more to do.
    pub fn step(
        &mut self,
        table: &Table,
        now_ms: u64,
        tracked: Tracked,
        out: &mut Vec<u8>,
    ) -> bool {
        match self {
            Walk::Top(top) => top.step(table, now_ms, tracked, out),
            Walk::Networks(networks) => networks.step(table, now_ms, out),
        }
    }

    /// Bytes that it takes at most.
    pub fn size(&self) -> usize {
        match self {
            Walk::Top(top) => 3 * top.amount * size_of::<(u32, InfoHash)>(),
            Walk::Networks(_) => 2 * Busiest::SIZE,
        }
    }
}

/// Peers by the network that they are in.
pub struct Networks {
    next: Option<Cursor>,
    busiest: [Busiest; 2],
}

impl Networks {
    /// The sizes that opentracker tells of.
    const PREFIXES: [u8; 2] = [28, 24];

    fn step(&mut self, table: &Table, now_ms: u64, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.next else {
            return false;
        };
        let busiest = &mut self.busiest;
        self.next = table.walk(from, now_ms, SLICE, &mut |found| {
            // Leechers and seeders over IPv4.
            let Found::Peers {
                list: 0 | 1,
                records,
            } = found
            else {
                return;
            };
            for &[a, b, c, d, ..] in as_chunks::<7>(records).0 {
                let address = u32::from_be_bytes([a, b, c, d]);
                for (busiest, prefix) in busiest.iter_mut().zip(Networks::PREFIXES) {
                    let host = 32 - u32::from(prefix);
                    busiest.count((address >> host << host).into());
                }
            }
        });
        if self.next.is_none() {
            for (busiest, prefix) in self.busiest.iter().zip(Networks::PREFIXES) {
                let top = busiest.top(BUSIEST, |_| true);
                networks(out, prefix.into(), &top, v4_address);
            }
        }
        self.next.is_some()
    }
}

/// A ranking: what by, and the torrents, the largest first.
type Ranking = (&'static str, Vec<(u32, InfoHash)>);

/// A walk underway, with the rankings of what it has passed.
pub struct Top {
    amount: usize,
    /// Where to go on; none at the end.
    next: Option<InfoHash>,
    rankings: [Ranking; 3],
}

impl Top {
    fn step(&mut self, table: &Table, now_ms: u64, tracked: Tracked, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.next else {
            return false;
        };
        let (amount, [peers, seeds, leechers]) = (self.amount, &mut self.rankings);
        self.next = table.scrape_from(&from, now_ms, SLICE, |hash, counts, _| {
            if tracked.is_some_and(|tracked| !tracked(hash)) {
                return;
            }
            let both = counts.seeders.saturating_add(counts.leechers);
            rank(&mut peers.1, amount, both, hash);
            rank(&mut seeds.1, amount, counts.seeders, hash);
            rank(&mut leechers.1, amount, counts.leechers, hash);
        });
        if self.next.is_none() {
            self.write(out);
        }
        self.next.is_some()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (by, ranking) in &self.rankings {
            fill(out, "Top $ torrents by ", &[self.amount as u64]);
            out.extend_from_slice(by.as_bytes());
            out.extend_from_slice(b":\n");
            for (count, hash) in ranking {
                out.push(b'\t');
                decimal(out, (*count).into());
                out.push(b'\t');
                for byte in hash {
                    let digits = [byte >> 4, byte & 15];
                    out.extend(digits.map(|digit| b"0123456789ABCDEF"[usize::from(digit)]));
                }
                out.push(b'\n');
            }
        }
    }
}

/// Puts a torrent where it belongs, behind those that have as many; zero belongs nowhere.
fn rank(ranking: &mut Vec<(u32, InfoHash)>, amount: usize, count: u32, hash: &InfoHash) {
    let place = ranking.iter().rposition(|(other, _)| *other >= count);
    let place = place.map_or(0, |place| place + 1);
    if count > 0 && place < amount {
        ranking.truncate(amount - 1);
        ranking.insert(place, (count, *hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::{Event, Limits, Peer, Role};
    use std::net::Ipv4Addr;

    fn table() -> Table {
        let limits = Limits {
            peer_timeout: 2700,
            max_peers: 1 << 20,
            max_torrents: 1 << 20,
        };
        let table = Table::new(limits, 2);
        let add = |torrent: u16, peer: u32, role| {
            let mut info_hash = [7; 20];
            info_hash[..2].copy_from_slice(&torrent.to_be_bytes());
            let peer = Ipv4Addr::from_bits(0x0a00_0000 + peer * 16);
            let peer = Peer::new(peer.into(), 1);
            table
                .lock_for(&info_hash, 0)
                .tell(&info_hash, peer, role, Event::None);
        };
        for torrent in 0..5000 {
            add(torrent, 1, Role::Seeder);
        }
        for peer in 0..8000 {
            add(4321, peer, Role::Leecher);
        }
        table
    }

    #[test]
    fn a_walk_takes_many_short_steps_and_finds_the_same() {
        let table = table();
        for (mut walk, start) in [
            (Walk::top(2), "Top 2 torrents by peers:\n\t8000\t10E10707"),
            (
                Walk::networks(&mut Random::seeded(1)),
                "Networks, limit /28:\n000049",
            ),
        ] {
            let mut out = Vec::new();
            let mut steps = 1;
            while walk.step(&table, 0, None, &mut out) {
                assert!(out.is_empty(), "nothing is told before the end");
                steps += 1;
            }
            assert!(steps >= 5, "{steps}");
            let text = String::from_utf8(out).expect("is text");
            assert!(text.starts_with(start), "{text}");
            assert!(
                !walk.step(&table, 0, None, &mut Vec::new()),
                "it stays over"
            );
        }
    }

    #[test]
    fn rankings_are_in_order_and_no_longer_than_asked() {
        let mut ranking = Vec::new();
        for (n, count) in [(1, 5), (2, 0), (3, 7), (4, 5), (5, 1), (6, 9), (7, 6)] {
            rank(&mut ranking, 4, count, &[n; 20]);
        }
        let expected = [(9, [6; 20]), (7, [3; 20]), (6, [7; 20]), (5, [1; 20])];
        assert_eq!(ranking, expected);
    }
}
