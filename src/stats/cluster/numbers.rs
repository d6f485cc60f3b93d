//! An overview as numbers, for another process on the same machine: workers answer for each other, and only
//! the gateway knows the nodes at other sites.

use super::{Multicast, Overview};
use crate::sync::link::{Counters, Realm};
use crate::sync::node::Report;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Numbers that an overview takes at most.
pub const MOST_NUMBERS: usize = 20_000;

/// Nodes that find room there, and names without an address; those beyond are not told. More peers and
/// workers than that cannot be configured.
pub const MOST_NODES: usize = 300;
const MOST_NAMES: usize = 256;

/// Bytes of a name and its port.
const MOST_NAME: usize = 264;

/// What stands for a node until its numbers have been read, or until it has an address.
pub(super) const NOBODY: Report = Report {
    realm: Realm::Site,
    address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    id: 0,
    is_up: false,
    is_own: false,
    counters: Counters::NONE,
    lag: 0,
    clock_offset: None,
    agrees: None,
};

impl Overview {
    /// For another process to read.
    pub fn numbers(&self) -> Vec<u64> {
        let mut told = self.clone();
        told.nodes.truncate(MOST_NODES);
        told.unresolved.truncate(MOST_NAMES);
        let mut numbers = Vec::new();
        told.each(&mut |number| numbers.push(*number));
        numbers
    }

    /// What another process has told.
    pub fn of_numbers(numbers: &[u64]) -> Overview {
        let mut overview = Overview::default();
        let mut numbers = numbers.iter();
        overview.each(&mut |number| *number = numbers.next().copied().unwrap_or(0));
        overview
    }

    /// Calls for each number, which may be changed, always in the same order.
    fn each(&mut self, take: &mut dyn FnMut(&mut u64)) {
        for number in [
            &mut self.id,
            &mut self.pending,
            &mut self.untold,
            &mut self.synced,
        ] {
            take(number);
        }
        each_signed(&mut self.ahead, take);
        each_flag(&mut self.is_joining, take);
        each_flag(&mut self.is_counted, take);
        self.unsent.iter_mut().for_each(&mut *take);
        self.rejections.iter_mut().for_each(&mut *take);
        let mut has_multicast = self.multicast.is_some();
        each_flag(&mut has_multicast, take);
        if has_multicast {
            let m = self.multicast.get_or_insert(Multicast::default());
            let numbers = [
                &mut m.packets_in,
                &mut m.packets_out,
                &mut m.records_in,
                &mut m.records_out,
            ];
            numbers.into_iter().for_each(&mut *take);
            m.ignored.iter_mut().for_each(&mut *take);
        }
        let nodes = each_length(self.nodes.len(), MOST_NODES, take);
        self.nodes.resize(nodes, NOBODY);
        for node in &mut self.nodes {
            each_of(node, take);
        }
        let names = each_length(self.unresolved.len(), MOST_NAMES, take);
        self.unresolved.resize(names, String::new());
        for name in &mut self.unresolved {
            each_name(name, take);
        }
    }
}

/// How many there are of what there may be so many of.
fn each_length(length: usize, most: usize, take: &mut dyn FnMut(&mut u64)) -> usize {
    let mut number = length as u64;
    take(&mut number);
    usize::try_from(number).unwrap_or(0).min(most)
}

/// Eight bytes a number.
fn each_name(name: &mut String, take: &mut dyn FnMut(&mut u64)) {
    let mut bytes = std::mem::take(name).into_bytes();
    let length = each_length(bytes.len(), MOST_NAME, take);
    bytes.resize(length, 0);
    for part in bytes.chunks_mut(8) {
        let mut word = [0; 8];
        word.iter_mut()
            .zip(&*part)
            .for_each(|(to, from)| *to = *from);
        let mut number = u64::from_ne_bytes(word);
        take(&mut number);
        let word = number.to_ne_bytes();
        part.iter_mut().zip(word).for_each(|(to, from)| *to = from);
    }
    *name = String::from_utf8(bytes).unwrap_or_default();
}

fn each_signed(number: &mut i64, take: &mut dyn FnMut(&mut u64)) {
    let mut bits = *number as u64;
    take(&mut bits);
    *number = bits as i64;
}

fn each_flag(flag: &mut bool, take: &mut dyn FnMut(&mut u64)) {
    let mut number = u64::from(*flag);
    take(&mut number);
    *flag = number > 0;
}

fn each_address(address: &mut SocketAddr, take: &mut dyn FnMut(&mut u64)) {
    let mut is_v6 = address.is_ipv6();
    let bits = match address.ip() {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let low = bits & u128::from(u64::MAX);
    let mut words = [bits >> 64, low].map(|half| u64::try_from(half).unwrap_or(0));
    let mut port = address.port().into();
    each_flag(&mut is_v6, take);
    words.iter_mut().for_each(&mut *take);
    take(&mut port);
    let [high, low] = words;
    let ip = match is_v6 {
        true => Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into(),
        false => Ipv4Addr::from_bits(u32::try_from(low).unwrap_or(0)).into(),
    };
    *address = SocketAddr::new(ip, u16::try_from(port).unwrap_or(0));
}

fn each_of(node: &mut Report, take: &mut dyn FnMut(&mut u64)) {
    let mut is_worker = node.realm == Realm::Group;
    let mut agrees = node.agrees.map_or(0, |agrees| 1 + u64::from(agrees));
    let mut has_offset = node.clock_offset.is_some();
    let mut offset = node.clock_offset.unwrap_or(0);
    for flag in [
        &mut is_worker,
        &mut node.is_up,
        &mut node.is_own,
        &mut has_offset,
    ] {
        each_flag(flag, take);
    }
    each_signed(&mut offset, take);
    for number in [&mut node.id, &mut node.lag, &mut agrees] {
        take(number);
    }
    each_address(&mut node.address, take);
    node.counters.each(take);
    node.realm = match is_worker {
        true => Realm::Group,
        false => Realm::Site,
    };
    node.clock_offset = has_offset.then_some(offset);
    node.agrees = agrees.checked_sub(1).map(|agrees| agrees > 0);
}
