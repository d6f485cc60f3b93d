//! A relay between two nodes, which keeps the bytes that it passes on and plays them back.

use crate::common::net::Host;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Default)]
struct Shared {
    /// What the node that connected sent first and what the other one sent, of each connection.
    kept: Mutex<Vec<[Vec<u8>; 2]>>,
    open: Mutex<Vec<TcpStream>>,
    plays: AtomicBool,
    /// Connections that got bytes from before.
    played: Mutex<usize>,
}

pub struct Tape {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Tape {
    /// A relay on a host, to this address.
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
            crate::common::sys::enter_network(&network).expect("may enter");
            while let Ok((stream, _)) = listener.accept() {
                shared.take(stream, to);
            }
        });
        tape
    }

    /// The first connection's bytes of either side.
    pub fn kept(&self) -> [Vec<u8>; 2] {
        let kept = self.shared.kept.lock().expect("no panic");
        kept.first().expect("a connection").clone()
    }

    /// Ends all connections. Later ones get the bytes of the first, until the next call.
    pub fn play(&self, plays: bool) {
        self.shared.plays.store(plays, Ordering::SeqCst);
        for stream in self.shared.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn played(&self) -> usize {
        *self.shared.played.lock().expect("no panic")
    }
}

impl Shared {
    fn take(self: &Arc<Shared>, mut stream: TcpStream, to: SocketAddr) {
        if self.plays.load(Ordering::SeqCst) {
            let bytes = self.kept.lock().expect("no panic")[0][1].clone();
            thread::spawn({
                let shared = Arc::clone(self);
                move || {
                    let _ = stream.write_all(&bytes);
                    // Until the node has closed the connection.
                    while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
                    *shared.played.lock().expect("no panic") += 1;
                }
            });
            return;
        }
        let Ok(other) = TcpStream::connect(to) else {
            return;
        };
        let mut kept = self.kept.lock().expect("no panic");
        let number = kept.len();
        kept.push([Vec::new(), Vec::new()]);
        drop(kept);
        let pairs = [(&stream, &other), (&other, &stream)];
        for (side, (from, to)) in pairs.into_iter().enumerate() {
            let [from, to] = [from, to].map(|stream| stream.try_clone().expect("a descriptor"));
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pass(from, to, |kept| &mut kept[number][side]));
        }
        self.open.lock().expect("no panic").extend([stream, other]);
    }

    fn pass(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        side: impl Fn(&mut Vec<[Vec<u8>; 2]>) -> &mut Vec<u8>,
    ) {
        let mut bytes = [0; 65536];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let new = &bytes[..count];
            side(&mut self.kept.lock().expect("no panic")).extend_from_slice(new);
            if to.write_all(new).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}
