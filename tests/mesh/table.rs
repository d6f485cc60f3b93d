//! The peers and counts of a node, read from its state file.

use announced::state::{StateItem, read_items};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

pub type InfoHash = [u8; 20];
pub type Key = (InfoHash, SocketAddr);

/// The first byte of info-hashes that tables leave out: those of `Mesh::pass_on`.
pub const PROBE: u8 = 0xee;

#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Whether each peer is a seeder.
    pub peers: BTreeMap<Key, bool>,
    /// Completed downloads other than zero.
    pub downloaded: BTreeMap<InfoHash, u32>,
}

impl Table {
    /// Reads a state file. Returns the table and the time of the save by the node's clock.
    pub fn read(path: &str) -> (Table, u64) {
        let bytes = std::fs::read(path).expect("was saved");
        let (mut table, mut time, mut torrent) = (Table::default(), 0, [0; 20]);
        let valid = read_items(&mut &bytes[..], &mut |item| match item {
            StateItem::Header(header) => time = header.saved_at,
            StateItem::Torrent(saved) => {
                torrent = saved.info_hash;
                if saved.downloaded > 0 {
                    table.downloaded.insert(torrent, saved.downloaded);
                }
            }
            StateItem::Peer(peer) if torrent[0] != PROBE => {
                let key = (torrent, address(peer.endpoint));
                table.peers.insert(key, peer.list % 2 == 1);
            }
            _ => {}
        });
        valid.expect("is read").expect("is valid");
        (table, time)
    }

    /// The differences from another table. Downloads are compared only if this table has some.
    pub fn differences(&self, other: &Table) -> Vec<String> {
        let peers: BTreeSet<_> = self.peers.keys().chain(other.peers.keys()).collect();
        let peers = peers.into_iter().filter_map(|key| {
            let [ours, theirs] = [self, other].map(|table| table.peers.get(key));
            let (hash, peer) = (key.0[0], key.1);
            (ours != theirs).then(|| format!("{hash:02x} {peer}: {ours:?} and {theirs:?}"))
        });
        let hashes = self.downloaded.keys().chain(other.downloaded.keys());
        let hashes: BTreeSet<_> = hashes.filter(|_| !self.downloaded.is_empty()).collect();
        let counts = hashes.into_iter().filter_map(|hash| {
            let [ours, theirs] = [self, other].map(|table| table.downloaded.get(hash));
            let hash = hash[0];
            (ours != theirs).then(|| format!("{hash:02x} downloaded: {ours:?} and {theirs:?}"))
        });
        peers.chain(counts).collect()
    }
}

fn address(endpoint: &[u8]) -> SocketAddr {
    let (ip, port) = endpoint.split_at(endpoint.len() - 2);
    let port = u16::from_be_bytes([port[0], port[1]]);
    match <[u8; 4]>::try_from(ip) {
        Ok(v4) => (v4, port).into(),
        Err(_) => (<[u8; 16]>::try_from(ip).expect("16 bytes"), port).into(),
    }
}
