//! The bounds of the table and of connections, and the size of receive buffers, from the memory of the host.

use super::Options;
use crate::sys::host_memory::HostMemory;
use crate::sys::sockets::BALANCES;
use crate::tracker::{PEER_BYTES, TORRENT_BYTES};
use std::fmt;

/// Without an option there are so many peers for each torrent.
const PEERS_A_TORRENT: u64 = 5;

/// Maximum bytes of a receive buffer: 20,000 announces by Linux's count, which is 40 ms at 500,000 a second.
const MAX_RECEIVE_BUFFER: u64 = 8 << 20;

/// Minimum bytes of a receive buffer. The default of Linux is 104 KiB.
const MIN_RECEIVE_BUFFER: u64 = 128 << 10;

/// The receive buffers of all threads for one address take at most this part of the memory. Linux lets each take twice
/// its size, and most hosts have an address of each family, which makes a sixteenth in a flood.
const RECEIVE_BUFFER_PART: u64 = 64;

/// Maximum TCP connections by default.
const MAX_CONNECTIONS: u64 = 65_536;

/// Minimum TCP connections by default.
const MIN_CONNECTIONS: u64 = 64;

/// Bytes of memory for which there is a TCP connection by default. One that waits takes 300 bytes here and about 4 KiB
/// in the kernel (8,000 of them measured). A half-read request takes up to 8 KiB here, and unread replies up to 160 KiB
/// in the kernel.
const CONNECTION_BYTES: u64 = 64 << 10;

/// Maximum bytes of the buffers of all connections together. Only clients that send and do not read, many at once,
/// reach it.
const MAX_BUFFERS: u64 = 32 << 20;

/// Minimum bytes of these buffers.
const MIN_BUFFERS: u64 = 512 << 10;

/// These buffers take at most this part of the memory.
const BUFFERS_PART: u64 = 16;

/// The highest value of either option.
pub const MAX: u32 = 4_000_000_000;

/// The most peers and torrents. It is shown as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub peers: usize,
    pub torrents: usize,
    /// The memory that both were to take, and half of which limit that is, if it is not an option's.
    memory: u64,
    half_of: Option<&'static str>,
}

/// The receive buffer of each UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveBuffer {
    pub bytes: i32,
    /// By the option.
    pub is_given: bool,
}

impl Options {
    pub fn bounds(&self) -> Bounds {
        self.bounds_within(HostMemory::find())
    }

    pub fn receive_buffer(&self) -> ReceiveBuffer {
        self.receive_buffer_within(HostMemory::find())
    }

    /// The most TCP connections, as far as there are descriptors for them.
    pub fn connections(&self) -> usize {
        self.connections_within(HostMemory::find())
    }

    /// The limit of the memory because of which there are fewer connections by default.
    pub fn fewer_connections_by(&self) -> Option<&'static str> {
        let host = HostMemory::find();
        let is_less = host.bytes / CONNECTION_BYTES < MAX_CONNECTIONS;
        (self.max_connections == 0 && is_less).then_some(host.name)
    }

    fn connections_within(&self, host: HostMemory) -> usize {
        let part = host.bytes / CONNECTION_BYTES;
        let count = match self.max_connections {
            0 => part.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS),
            given => given.into(),
        };
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn receive_buffer_within(&self, host: HostMemory) -> ReceiveBuffer {
        // Elsewhere all threads share a socket.
        let sockets = if BALANCES { self.threads() } else { 1 };
        let part = host.bytes / RECEIVE_BUFFER_PART / sockets as u64;
        let bytes = match self.receive_buffer {
            0 => part.clamp(MIN_RECEIVE_BUFFER, MAX_RECEIVE_BUFFER),
            bytes => bytes,
        };
        ReceiveBuffer {
            bytes: i32::try_from(bytes).unwrap_or(i32::MAX),
            is_given: self.receive_buffer > 0,
        }
    }

    fn bounds_within(&self, host: HostMemory) -> Bounds {
        let given = |number: u32| Some(u64::from(number)).filter(|number| *number > 0);
        let (memory, half_of) = match self.memory {
            0 => (host.bytes / 2, Some(host.name)),
            bytes => (bytes, None),
        };
        let rest = |of: u64, each| memory.saturating_sub(of) / each;
        let (peers, torrents) = match (given(self.max_peers), given(self.max_torrents)) {
            (Some(peers), Some(torrents)) => (peers, torrents),
            (Some(peers), None) => {
                let torrents = rest(peers * PEER_BYTES, TORRENT_BYTES);
                (peers, torrents.max(peers / PEERS_A_TORRENT))
            }
            (None, Some(torrents)) => {
                let peers = rest(torrents * TORRENT_BYTES, PEER_BYTES);
                (peers.max(torrents), torrents)
            }
            (None, None) => {
                let torrents = rest(0, TORRENT_BYTES + PEERS_A_TORRENT * PEER_BYTES);
                (torrents * PEERS_A_TORRENT, torrents)
            }
        };
        let [peers, torrents] = [peers, torrents].map(|bound| {
            let bound = bound.clamp(1, MAX.into());
            usize::try_from(bound).unwrap_or(usize::MAX)
        });
        Bounds {
            peers,
            torrents,
            memory,
            half_of,
        }
    }
}

/// The most bytes of the buffers of all connections together.
pub fn connection_buffers() -> usize {
    connection_buffers_within(HostMemory::find())
}

fn connection_buffers_within(host: HostMemory) -> usize {
    let part = host.bytes / BUFFERS_PART;
    usize::try_from(part.clamp(MIN_BUFFERS, MAX_BUFFERS)).unwrap_or(usize::MAX)
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (peers, torrents) = (self.peers, self.torrents);
        let bytes = peers as u64 * PEER_BYTES + torrents as u64 * TORRENT_BYTES;
        write!(
            f,
            "max-peers {peers}, max-torrents {torrents}: {bytes} bytes, "
        )?;
        // Both have been rounded down.
        let is_near = (bytes..bytes + 2 * TORRENT_BYTES + 10 * PEER_BYTES).contains(&self.memory);
        f.write_str(match bytes > self.memory {
            true => "more than ",
            false if is_near => "",
            false => "less than ",
        })?;
        match self.half_of {
            Some(name) => write!(f, "half of {name}"),
            None => f.write_str("--memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(memory: u64, max_peers: u32, max_torrents: u32, host: u64) -> String {
        let options = Options {
            memory,
            max_peers,
            max_torrents,
            ..Options::default()
        };
        let host = HostMemory {
            bytes: host,
            name: "RLIMIT_AS",
        };
        options.bounds_within(host).to_string()
    }

    #[test]
    fn bounds_follow_memory_unless_given() {
        for (max_peers, max_torrents, expected) in [
            (0, 0, "50000, max-torrents 10000: 1940000 bytes, --memory"),
            (
                10_000,
                0,
                "10000, max-torrents 26250: 1940000 bytes, --memory",
            ),
            (
                0,
                10_000,
                "50000, max-torrents 10000: 1940000 bytes, --memory",
            ),
            (0, 1000, "72153, max-torrents 1000: 1939978 bytes, --memory"),
            // The other bound stays of use where the given one takes all.
            (
                100_000,
                0,
                "100000, max-torrents 20000: 3880000 bytes, more than --memory",
            ),
            (
                0,
                100_000,
                "100000, max-torrents 100000: 9000000 bytes, more than --memory",
            ),
        ] {
            let bounds = bounds(1_940_000, max_peers, max_torrents, 1 << 30);
            assert_eq!(bounds, format!("max-peers {expected}"));
        }
    }

    #[test]
    fn receive_buffers_take_a_part_of_the_memory_unless_given() {
        for (host, threads, given, expected) in [
            (1 << 40, 1, 0, (8 << 20, false)),
            (512 << 20, 1, 0, (8 << 20, false)),
            (32 << 20, 1, 0, (512 << 10, false)),
            (16 << 20, 1, 0, (256 << 10, false)),
            (4 << 20, 1, 0, (128 << 10, false)),
            (512 << 20, 4, 0, (2 << 20, false)),
            (1 << 40, 64, 0, (8 << 20, false)),
            (16 << 20, 1, 64 << 10, (64 << 10, true)),
            (16 << 20, 4, 512 << 20, (512 << 20, true)),
        ] {
            let options = Options {
                receive_buffer: given,
                threads,
                ..Options::default()
            };
            let host = HostMemory {
                bytes: host,
                name: "RLIMIT_AS",
            };
            let found = options.receive_buffer_within(host);
            assert_eq!(
                (found.bytes, found.is_given),
                expected,
                "{host:?} {threads}"
            );
        }
    }

    #[test]
    fn connections_and_their_buffers_take_a_part_of_the_memory() {
        for (host, given, connections, buffers) in [
            (1 << 40, 0, 65_536, 32 << 20),
            (4 << 30, 0, 65_536, 32 << 20),
            (1 << 30, 0, 16_384, 32 << 20),
            (32 << 20, 0, 512, 2 << 20),
            (1 << 20, 0, 64, 512 << 10),
            (32 << 20, 4000, 4000, 2 << 20),
        ] {
            let options = Options {
                max_connections: given,
                ..Options::default()
            };
            let host = HostMemory {
                bytes: host,
                name: "RLIMIT_AS",
            };
            let found = (
                options.connections_within(host),
                connection_buffers_within(host),
            );
            assert_eq!(found, (connections, buffers), "{host:?} {given}");
        }
    }

    #[test]
    fn without_a_size_the_table_takes_half_of_what_there_is() {
        for (host, given, expected) in [
            (
                388_000_000,
                0,
                "5000000, max-torrents 1000000: 194000000 bytes, ",
            ),
            (
                1 << 40,
                0,
                "4000000000, max-torrents 2833792855: 285362742720 bytes, less than ",
            ),
            (
                1 << 30,
                1000,
                "1000, max-torrents 1000: 90000 bytes, less than ",
            ),
            (0, 0, "1, max-torrents 1: 90 bytes, more than "),
        ] {
            let expected = format!("max-peers {expected}half of RLIMIT_AS");
            assert_eq!(bounds(0, given, given, host), expected);
        }
    }
}
