//! Reports on the table itself: the largest torrents, the networks with most peers.
//!
//! They are made by a walk when a client requests them, so that an announce costs nothing for them. A walk goes in
//! steps of bounded size, so that it delays no other client.

use super::modes::{MAX_NETWORKS, networks};
use crate::base::busiest::{Busiest, rank};
use crate::base::random::Random;
use crate::base::text::{fill, hex, text, texts};
use crate::sys::chunks::as_chunks;
use crate::tracker::{Counts, Cursor, Found, InfoHash, Table, Tracked};

/// Torrents or peers in a step: about a tenth of a millisecond.
const STEP: usize = 1000;

/// A walk under way.
pub struct TableWalk {
    /// None at the end.
    next: Option<Cursor>,
    findings: Findings,
}

enum Findings {
    /// The length of the rankings, and the torrents with most peers, seeders and leechers.
    Top(usize, [Vec<(InfoHash, u32)>; 3]),
    /// IPv4 networks by peers, for each of [`PREFIXES`].
    Networks([Busiest; 2]),
}

use Findings::{Networks, Top};

/// The network sizes that opentracker reports. IPv6 has no networks of these sizes.
const PREFIXES: [u8; 2] = [28, 24];

impl TableWalk {
    /// Ranks this many torrents.
    pub fn top(length: usize) -> TableWalk {
        TableWalk::new(Top(length, Default::default()))
    }

    /// Ranks IPv4 networks by peers.
    pub fn networks(random: &mut Random) -> TableWalk {
        TableWalk::new(Networks(PREFIXES.map(|_| Busiest::new(random))))
    }

    fn new(findings: Findings) -> TableWalk {
        TableWalk {
            next: Some(Cursor::default()),
            findings,
        }
    }

    /// Walks on, and at the end appends opentracker's text; whether there is more to do.
    pub fn step(
        &mut self,
        table: &Table,
        now_ms: u64,
        tracked: Tracked,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(from) = self.next else {
            return false;
        };
        self.next = match &mut self.findings {
            Top(length, rankings) => {
                let visit = |hash: &InfoHash, counts: Counts, _| {
                    if tracked.is_none_or(|tracked| tracked(hash)) {
                        rank_torrent(rankings, *length, *hash, counts);
                    }
                };
                let next = table.scrape_from(from.torrent(), now_ms, STEP, visit);
                next.map(Cursor::at)
            }
            Networks(busiest) => table.walk(from, now_ms, STEP, &mut |found| {
                // Leechers and seeders over IPv4.
                if let Found::Peers {
                    list: 0 | 1,
                    records,
                } = found
                {
                    count_networks(busiest, records);
                }
            }),
        };
        if self.next.is_none() {
            self.write(out);
        }
        self.next.is_some()
    }

    fn write(&self, out: &mut Vec<u8>) {
        match &self.findings {
            Top(length, rankings) => {
                for (by, ranking) in ["peers", "seeds", "leechers"].iter().zip(rankings) {
                    fill(out, "Top $ torrents by ", &[*length as u64]);
                    texts(out, &[by, ":\n"]);
                    for (hash, count) in ranking {
                        fill(out, "\t$\t", &[(*count).into()]);
                        hex(out, hash);
                        text(out, "\n");
                    }
                }
            }
            Networks(busiest) => {
                for (busiest, prefix) in busiest.iter().zip(PREFIXES) {
                    networks(out, prefix.into(), &busiest.top(MAX_NETWORKS, |_| true));
                }
            }
        }
    }

    /// Bytes of memory that it takes at most.
    pub fn size(&self) -> usize {
        match &self.findings {
            Top(length, _) => 3 * length * size_of::<(InfoHash, u32)>(),
            Networks(_) => 2 * Busiest::SIZE,
        }
    }
}

fn rank_torrent(
    rankings: &mut [Vec<(InfoHash, u32)>; 3],
    length: usize,
    hash: InfoHash,
    counts: Counts,
) {
    let peers = counts.seeders.saturating_add(counts.leechers);
    let counts = [peers, counts.seeders, counts.leechers];
    for (ranking, count) in rankings.iter_mut().zip(counts) {
        rank(ranking, length, hash, count);
    }
}

/// Counts the networks of IPv4 peers.
fn count_networks(busiest: &mut [Busiest; 2], records: &[u8]) {
    for &[a, b, c, d, ..] in as_chunks::<7>(records).0 {
        let address = u32::from_be_bytes([a, b, c, d]);
        for (busiest, prefix) in busiest.iter_mut().zip(PREFIXES) {
            let host = 32 - u32::from(prefix);
            busiest.count((address >> host << host).into());
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
