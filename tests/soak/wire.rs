//! The wire between two nodes, which can be cut, hold bytes back, or damage one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Whole,
    /// Bytes wait until it is whole again.
    Slow,
    /// Connections end.
    Cut,
    /// The next byte is wrong, and the wire is whole again.
    Damaged,
}

pub struct Wire {
    pub address: SocketAddr,
    state: Arc<AtomicU8>,
}

impl Wire {
    /// Takes connections for this address.
    pub fn new(to: SocketAddr) -> Wire {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("is bound");
        let state = Arc::new(AtomicU8::new(State::Whole as u8));
        let wire = Wire {
            address,
            state: Arc::clone(&state),
        };
        thread::spawn(move || {
            while let Ok((from, _)) = listener.accept() {
                let Ok(to) = TcpStream::connect(to) else {
                    continue;
                };
                for (from, to) in [(&from, &to), (&to, &from)] {
                    let [from, to] =
                        [from, to].map(|stream| stream.try_clone().expect("a descriptor"));
                    let state = Arc::clone(&state);
                    thread::spawn(move || pass(from, to, &state));
                }
            }
        });
        wire
    }

    pub fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::SeqCst);
    }

    pub fn is_whole(&self) -> bool {
        self.state.load(Ordering::SeqCst) == State::Whole as u8
    }
}

/// Passes the bytes of one side on until it ends, or the wire is cut.
fn pass(mut from: TcpStream, mut to: TcpStream, state: &AtomicU8) {
    let is = |other: State| state.load(Ordering::SeqCst) == other as u8;
    let tick = Duration::from_millis(10);
    from.set_read_timeout(Some(tick)).expect("a timeout");
    let mut bytes = [0; 65536];
    while !is(State::Cut) {
        if is(State::Slow) {
            thread::sleep(tick);
            continue;
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                if is(State::Damaged) {
                    bytes[count / 2] ^= 1;
                    state.store(State::Whole as u8, Ordering::SeqCst);
                }
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => break,
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
