//! A relay between two nodes, which records the bytes of its first connection and replays them.

use crate::common::net::Host;
use crate::common::sys::enter_network;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Default)]
struct Shared {
    /// The bytes of both sides of the first connection, first those of the node that connected.
    recorded: [Mutex<Vec<u8>>; 2],
    has_recorded: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    replays: AtomicBool,
    /// Connections that received recorded bytes.
    replayed: AtomicUsize,
}

pub struct Tape {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Tape {
    /// Starts a relay on a host to this address.
    pub fn start(host: &Host, to: SocketAddr) -> Tape {
        let listener = host.within(|| TcpListener::bind((host.v4(), 0)).expect("a port"));
        let address = listener.local_addr().expect("is bound");
        let shared = Arc::new(Shared::default());
        let tape = Tape {
            address,
            shared: Arc::clone(&shared),
        };
        let network = host.network();
        thread::spawn(move || {
            enter_network(&network).expect("may enter");
            while let Ok((stream, _)) = listener.accept() {
                shared.take(stream, to);
            }
        });
        tape
    }

    /// The bytes of the node that made the first connection.
    pub fn recorded(&self) -> Vec<u8> {
        self.shared.recorded[0].lock().expect("no panic").clone()
    }

    /// Ends all connections. With `replays`, later ones receive the recorded bytes until the next call.
    pub fn replay(&self, replays: bool) {
        self.shared.replays.store(replays, Ordering::SeqCst);
        for stream in self.shared.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn replayed(&self) -> usize {
        self.shared.replayed.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn take(self: &Arc<Shared>, mut stream: TcpStream, to: SocketAddr) {
        let shared = Arc::clone(self);
        if self.replays.load(Ordering::SeqCst) {
            thread::spawn(move || {
                let bytes = shared.recorded[1].lock().expect("no panic").clone();
                let _ = stream.write_all(&bytes);
                // Until the node has closed the connection.
                while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
                shared.replayed.fetch_add(1, Ordering::SeqCst);
            });
            return;
        }
        let Ok(other) = TcpStream::connect(to) else {
            return;
        };
        let is_first = !self.has_recorded.swap(true, Ordering::SeqCst);
        for (side, (from, to)) in [(&stream, &other), (&other, &stream)]
            .into_iter()
            .enumerate()
        {
            let [from, to] = [from, to].map(|stream| stream.try_clone().expect("a descriptor"));
            let shared = Arc::clone(self);
            thread::spawn(move || pass(from, to, is_first.then_some(&shared.recorded[side])));
        }
        self.open.lock().expect("no panic").extend([stream, other]);
    }
}

/// Relays all bytes of one side, and records them.
fn pass(mut from: TcpStream, mut to: TcpStream, record: Option<&Mutex<Vec<u8>>>) {
    let mut bytes = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let new = &bytes[..count];
        if let Some(record) = record {
            record.lock().expect("no panic").extend_from_slice(new);
        }
        if to.write_all(new).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
