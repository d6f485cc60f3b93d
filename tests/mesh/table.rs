//! What a node knows, read from its state file.

use announced::state::{Item, Reader};
use std::collections::BTreeMap;
use std::net::SocketAddr;

pub type InfoHash = [u8; 20];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub is_seeder: bool,
    /// Units since the last announce.
    pub age: u64,
}

#[derive(Debug, Default)]
pub struct Table {
    pub peers: BTreeMap<(InfoHash, SocketAddr), Peer>,
    /// Milliseconds since 1970 by the node's own clock.
    pub saved_at: u64,
}

/// Units of a timeout, and of a sixth of it.
const LIFE: u64 = 96;
const SIXTH: u64 = 16;

impl Table {
    pub fn read(path: &str) -> Table {
        let bytes = std::fs::read(path).expect("has been saved");
        let mut table = Table::default();
        let mut torrent = InfoHash::default();
        let mut passed = 0;
        let mut reader = Reader::default();
        let fed = reader.feed(&bytes, &mut |item| match item {
            Item::Header { saved_at, .. } => table.saved_at = saved_at,
            Item::Time { units } => passed = units,
            Item::Torrent { info_hash, .. } => torrent = info_hash,
            Item::Peer {
                list,
                endpoint,
                age,
                ..
            } => {
                let peer = Peer {
                    is_seeder: list % 2 == 1,
                    age: u64::from(age).saturating_sub(passed),
                };
                table.peers.insert((torrent, address(endpoint)), peer);
            }
            Item::Stop { .. } => panic!("no file has stops"),
        });
        fed.and_then(|()| reader.finish()).expect("is sound");
        table
    }

    /// Where the two do not agree. Both were saved at the same time, but for a unit or so.
    pub fn differences(&self, other: &Table) -> Vec<String> {
        let mut found = Vec::new();
        for (key, peer) in &self.peers {
            match other.peers.get(key) {
                Some(same) if same.is_seeder != peer.is_seeder => {
                    found.push(format!("{key:?}: {peer:?} and {same:?}"));
                }
                Some(same) if same.age.abs_diff(peer.age) > SIXTH + 1 => {
                    found.push(format!("{key:?}: {peer:?} and {same:?}"));
                }
                None if peer.age < LIFE - SIXTH => {
                    found.push(format!("{key:?}: {peer:?} and none"));
                }
                _ => {}
            }
        }
        for (key, peer) in &other.peers {
            if !self.peers.contains_key(key) && peer.age < LIFE - SIXTH {
                found.push(format!("{key:?}: none and {peer:?}"));
            }
        }
        found
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
