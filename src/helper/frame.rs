//! Frames between the daemon and a helper process: kind 1, length 2 (little-endian), payload.
//!
//! Both ends are the same program, so no version is negotiated and an unknown kind cannot occur. The daemon's end never
//! blocks; the helper's end always does.

use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

const HEADER: usize = 3;

pub const MAX_PAYLOAD: usize = 65_535;

/// The kind and the payload.
pub type Frame = (u8, Vec<u8>);

/// The daemon's end.
pub struct Channel {
    /// None once the helper has ended.
    stream: Option<mio::net::UnixStream>,
    /// The frame that is being received.
    input: Vec<u8>,
    /// Frames for which the socket had no room yet.
    output: Vec<u8>,
}

impl Channel {
    /// The stream must be non-blocking.
    pub fn new(stream: UnixStream) -> Channel {
        Channel {
            stream: Some(mio::net::UnixStream::from_std(stream)),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.stream.is_some()
    }

    /// Bytes that wait for room in the socket.
    pub fn queued(&self) -> usize {
        self.output.len()
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let mut stream = self.stream.iter_mut();
        stream.try_for_each(|stream| registry.register(stream, token, interest))
    }

    /// Sends a frame; without effect if the helper has ended.
    pub fn send(&mut self, kind: u8, payload: &[u8]) {
        put(&mut self.output, kind, payload);
        // The next turn returns the same error, and the poll reports the socket.
        let _ = self.flush();
    }

    /// Flushes the queue, and receives the next frame if it has arrived completely. The first error ends the channel
    /// and is returned once.
    pub fn turn(&mut self) -> io::Result<Option<Frame>> {
        let received = self.flush().and_then(|()| match &mut self.stream {
            Some(stream) => read(stream, &mut self.input),
            None => Ok(None),
        });
        if received.is_err() {
            self.stream = None;
        }
        received
    }

    fn flush(&mut self) -> io::Result<()> {
        while let (Some(stream), false) = (&mut self.stream, self.output.is_empty()) {
            match stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Frees the memory.
        self.output = Vec::new();
        Ok(())
    }
}

/// Reads the rest of a frame, whose start is in `input`; none if it has not arrived yet.
fn read(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    loop {
        let missing = match input.split_first_chunk() {
            Some((&[kind, low, high], payload)) => {
                let length = usize::from(u16::from_le_bytes([low, high]));
                if payload.len() >= length {
                    let payload = payload.to_vec();
                    *input = Vec::new();
                    return Ok(Some((kind, payload)));
                }
                length - payload.len()
            }
            None => HEADER - input.len(),
        };
        input.reserve(missing);
        match stream.take(missing as u64).read_to_end(input) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Receives a frame at the helper's end. An error means that the daemon has ended.
pub fn receive(mut stream: &UnixStream) -> io::Result<Frame> {
    let frame = read(&mut stream, &mut Vec::new())?;
    frame.ok_or(ErrorKind::WouldBlock.into())
}

/// Sends a frame from the helper's end.
pub fn send(mut stream: &UnixStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::new();
    put(&mut frame, kind, payload);
    stream.write_all(&frame)
}

/// Cuts a payload that is longer than [`MAX_PAYLOAD`].
fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let [low, high] = length.to_le_bytes();
    out.extend_from_slice(&[kind, low, high]);
    out.extend_from_slice(&payload[..usize::from(length)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_and_in_order_however_they_are_split() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("an option");
        let mut channel = Channel::new(ours);
        let mut bytes = Vec::new();
        put(&mut bytes, 7, b"");
        put(&mut bytes, 8, &[5; 1000]);
        put(&mut bytes, 9, b"end");
        for part in bytes.chunks(300) {
            theirs.write_all(part).expect("is sent");
        }
        let mut next = || channel.turn().expect("no error");
        assert_eq!(next(), Some((7, Vec::new())));
        assert_eq!(next(), Some((8, vec![5; 1000])));
        theirs.write_all(&[1]).expect("is sent");
        assert_eq!(next(), Some((9, b"end".to_vec())));
        assert_eq!(next(), None, "a frame of which one byte has come");
        drop(theirs);
        assert!(channel.turn().is_err());
        assert!(!channel.is_up());
        channel.send(1, b"nobody reads this");
        assert_eq!(channel.turn().ok(), Some(None));
        assert_eq!(channel.queued(), 0);
    }

    #[test]
    fn frames_without_room_in_the_socket_are_sent_later() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("an option");
        let mut channel = Channel::new(ours);
        let mut sent = 0_usize;
        while channel.queued() == 0 {
            channel.send(sent as u8, &[sent as u8; MAX_PAYLOAD]);
            sent += 1;
        }
        for number in 0..sent {
            let (kind, payload) = receive(&theirs).expect("is sent");
            assert_eq!(
                (kind, payload),
                (number as u8, vec![number as u8; MAX_PAYLOAD])
            );
            assert_eq!(channel.turn().ok(), Some(None));
        }
    }
}
