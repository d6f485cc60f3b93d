//! Reports on the table itself: the largest torrents, the networks with most peers.
//!
//! They are made by a walk when a client asks for them, so that an announce costs nothing for them. A walk goes in
//! steps of bounded size, so that it delays no other client.

use super::modes::{MAX_NETWORKS, networks};
use crate::base::busiest::{Busiest, rank};
use crate::base::random::Random;
use crate::base::text::{fill, hex, text, texts};
use crate::sys::chunks::as_chunks;
use crate::tracker::{Cursor, Found, InfoHash, Table, Tracked};

/// Torrents or peers in a step: about a tenth of a millisecond.
const STEP: usize = 1000;

/// A walk under way.
pub enum TableWalk {
    Top(Top),
    Networks(Networks),
}

impl TableWalk {
    /// Ranks this many torrents.
    pub fn top(length: usize) -> TableWalk {
        TableWalk::Top(Top {
            length,
            next: Some([0; 20]),
            rankings: Default::default(),
        })
    }

    /// Ranks IPv4 networks by peers. IPv6 has no networks of these sizes.
    pub fn networks(random: &mut Random) -> TableWalk {
        TableWalk::Networks(Networks {
            next: Some(Cursor::default()),
            busiest: Networks::PREFIXES.map(|_| Busiest::new(random)),
        })
    }

    /// Walks on, and at the end appends opentracker's text; whether there is more to do.
    pub fn step(
        &mut self,
        table: &Table,
        now_ms: u64,
        tracked: Tracked,
        out: &mut Vec<u8>,
    ) -> bool {
        match self {
            TableWalk::Top(top) => top.step(table, now_ms, tracked, out),
            TableWalk::Networks(networks) => networks.step(table, now_ms, out),
        }
    }

    /// Bytes of memory that it takes at most.
    pub fn size(&self) -> usize {
        match self {
            TableWalk::Top(top) => 3 * top.length * size_of::<(InfoHash, u32)>(),
            TableWalk::Networks(_) => 2 * Busiest::SIZE,
        }
    }
}

/// Peers by network.
pub struct Networks {
    next: Option<Cursor>,
    busiest: [Busiest; 2],
}

impl Networks {
    /// The sizes that opentracker reports.
    const PREFIXES: [u8; 2] = [28, 24];

    fn step(&mut self, table: &Table, now_ms: u64, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.next else {
            return false;
        };
        let busiest = &mut self.busiest;
        self.next = table.walk(from, now_ms, STEP, &mut |found| {
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
                networks(out, prefix.into(), &busiest.top(MAX_NETWORKS, |_| true));
            }
        }
        self.next.is_some()
    }
}

/// The largest torrents.
pub struct Top {
    length: usize,
    /// None at the end.
    next: Option<InfoHash>,
    /// By peers, seeders and leechers; the largest first.
    rankings: [Vec<(InfoHash, u32)>; 3],
}

impl Top {
    fn step(&mut self, table: &Table, now_ms: u64, tracked: Tracked, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.next else {
            return false;
        };
        let (length, rankings) = (self.length, &mut self.rankings);
        self.next = table.scrape_from(&from, now_ms, STEP, |hash, counts, _| {
            if tracked.is_some_and(|tracked| !tracked(hash)) {
                return;
            }
            let peers = counts.seeders.saturating_add(counts.leechers);
            let counts = [peers, counts.seeders, counts.leechers];
            for (ranking, count) in rankings.iter_mut().zip(counts) {
                rank(ranking, length, *hash, count);
            }
        });
        if self.next.is_none() {
            self.write(out);
        }
        self.next.is_some()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (by, ranking) in ["peers", "seeds", "leechers"].iter().zip(&self.rankings) {
            fill(out, "Top $ torrents by ", &[self.length as u64]);
            texts(out, &[by, ":\n"]);
            for (hash, count) in ranking {
                fill(out, "\t$\t", &[(*count).into()]);
                hex(out, hash);
                text(out, "\n");
            }
        }
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
    fn a_walk_takes_many_steps_and_reports_at_its_end() {
        let table = table();
        for (mut walk, start) in [
            (
                TableWalk::top(2),
                "Top 2 torrents by peers:\n\t8000\t10E10707",
            ),
            (
                TableWalk::networks(&mut Random::seeded(1)),
                "Networks, limit /28:\n000049",
            ),
        ] {
            let mut out = Vec::new();
            let mut steps = 1;
            while walk.step(&table, 0, None, &mut out) {
                assert!(out.is_empty(), "no text before the end");
                steps += 1;
            }
            assert!(steps >= 5, "{steps}");
            let text = String::from_utf8(out).expect("text");
            assert!(text.starts_with(start), "{text}");
            assert!(
                !walk.step(&table, 0, None, &mut Vec::new()),
                "a walk ends once"
            );
        }
    }
}
