//! opentracker's live sync as the daemon drives it: what is taken from one socket, what goes to the other,
//! and what the log says of both.

use super::cluster::{self, Teller};
use super::multicast::{Counters, Ignored, Multicast};
use crate::sys::mmsg::{BATCH, Batch};
use crate::tracker::ledger::Change;
use mio::net::UdpSocket;
use std::io;
use std::net::IpAddr;

/// Milliseconds between two lines about packets that were not taken for the same reason.
const TELL_AGAIN: u64 = 3_600_000;

/// Packets that wait to be sent: 52,000 announces. More come only while the loop stands still.
const MOST_PACKETS: usize = 1000;

/// The sockets of the group: one takes what comes to it, the other one sends there.
pub struct Sockets {
    pub input: UdpSocket,
    pub output: UdpSocket,
}

pub struct Live {
    multicast: Multicast,
    packets: Vec<Vec<u8>>,
    /// Whether the last packet could not be sent.
    is_failing: bool,
    is_ending: bool,
    /// When strangers and floods are told of again.
    told: [u64; 2],
    /// Reused.
    changes: Vec<Change>,
}

impl Live {
    pub fn new(multicast: Multicast) -> Live {
        Live {
            multicast,
            packets: Vec::new(),
            is_failing: false,
            is_ending: false,
            told: [0; 2],
            changes: Vec::new(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.multicast.counters
    }

    pub fn next_tick(&self) -> Option<u64> {
        self.multicast.next_tick()
    }

    /// Takes what waits on the socket, up to a batch, and passes on what each packet tells; whether more may
    /// be waiting.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        batch: &mut Batch,
        now: u64,
        teller: &mut Teller,
        hear: &mut dyn FnMut(&[Change]),
    ) -> bool {
        // The next datagram will tell, as of the sockets of the cluster.
        let Ok(received) = batch.receive(socket) else {
            return false;
        };
        let mut changes = std::mem::take(&mut self.changes);
        for (from, packet) in batch.datagrams() {
            changes.clear();
            match self.multicast.hear(from.ip(), packet, now, &mut changes) {
                Ok(()) => hear(&changes),
                Err(why) => self.tell_ignored(why, from.ip(), now, teller),
            }
        }
        self.changes = changes;
        received == BATCH
    }

    fn tell_ignored(&mut self, why: Ignored, from: IpAddr, now: u64, teller: &mut Teller) {
        let (told, text) = match why {
            Ignored::Stranger => (&mut self.told[0], "no --sync-node holds it"),
            Ignored::Shed => (&mut self.told[1], "there are too many"),
            Ignored::Own | Ignored::Malformed => return,
        };
        if now >= *told {
            *told = now + TELL_AGAIN;
            teller.tell(
                now,
                format_args!("multicast: packets of {from} are not taken: {text}"),
            );
        }
    }

    /// Puts changes into packets, and sees which packets have waited for long enough.
    pub fn tell(&mut self, changes: &[Change], now: u64) {
        for change in changes {
            let full = self.multicast.tell(change, now);
            self.push(full);
        }
        let now = if self.is_ending { u64::MAX } else { now };
        while let Some(due) = self.multicast.tick(now) {
            self.push(Some(due));
        }
    }

    /// From now on nothing waits.
    pub fn wind_up(&mut self) {
        self.is_ending = true;
    }

    fn push(&mut self, packet: Option<Vec<u8>>) {
        if self.packets.len() < MOST_PACKETS {
            self.packets.extend(packet);
        }
    }

    /// Sends what is to be sent. What the system does not take is lost, as it could be on the way.
    pub(super) fn send(
        &mut self,
        socket: &UdpSocket,
        now: u64,
        counters: &mut cluster::Counters,
        teller: &mut Teller,
    ) {
        for packet in self.packets.drain(..) {
            match socket.send(&packet) {
                Ok(_) if std::mem::take(&mut self.is_failing) => {
                    teller.tell(now, format_args!("multicast: packets can be sent again"));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => counters.dropped += 1,
                Err(error) => {
                    counters.refused += 1;
                    if !std::mem::replace(&mut self.is_failing, true) {
                        teller.tell(now, format_args!("multicast: cannot send: {error}"));
                    }
                }
            }
        }
    }
}
