//! Frames between the daemon and a helper process: kind 1, length 2 (little-endian), payload.
//!
//! Both ends are the same program, so no version is negotiated. The daemon's end never blocks; the helper's end always
//! does.
//!
//! Each child of the monitor has a stream of its own, whose other end the monitor sends to the daemon. So nothing of a
//! child that has ended, such as half a frame, is left for the next one. The first frame of a child is [`HELLO`].

use super::HELLO;
use crate::sys::descriptors;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

const HEADER: usize = 3;

pub const MAX_PAYLOAD: usize = 65_535;

/// How many children may end in a row without an answer and still have their requests repeated. A request that ends
/// each child would else be repeated without end.
const MAX_REPEATS: u32 = 2;

/// The kind and the payload.
pub type Frame = (u8, Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Frame(u8, Vec<u8>),
    /// A new child has taken the place of one that ended, with all requests to it. Whether they should be repeated.
    Restarted(bool),
    /// The child and the monitor have ended.
    Ended,
}

/// The daemon's end.
pub struct Channel {
    /// From the monitor: the stream to each new child. None once the monitor has ended.
    monitor: Option<mio::net::UnixStream>,
    /// None while there is no child.
    stream: Option<mio::net::UnixStream>,
    /// Where new streams are registered.
    poll: Option<(Registry, Token)>,
    /// The frame that is being received.
    input: Vec<u8>,
    /// Frames for which the socket had no room yet.
    output: Vec<u8>,
    /// Children that have ended since the last answer.
    ended: u32,
}

impl Channel {
    /// Waits for the first child of this monitor, until it is ready to work.
    pub fn open(monitor: UnixStream) -> io::Result<Channel> {
        let stream = UnixStream::from(descriptors::receive(&monitor)?);
        let (_, why) = receive(&stream)?;
        if !why.is_empty() {
            return Err(io::Error::other(String::from_utf8_lossy(&why)));
        }
        Channel::new(Some(monitor), stream)
    }

    pub(super) fn new(monitor: Option<UnixStream>, stream: UnixStream) -> io::Result<Channel> {
        for stream in monitor.iter().chain([&stream]) {
            stream.set_nonblocking(true)?;
        }
        Ok(Channel {
            monitor: monitor.map(mio::net::UnixStream::from_std),
            stream: Some(mio::net::UnixStream::from_std(stream)),
            poll: None,
            input: Vec::new(),
            output: Vec::new(),
            ended: 0,
        })
    }

    /// Whether a child works, or the monitor will start one.
    pub fn is_up(&self) -> bool {
        self.stream.is_some() || self.monitor.is_some()
    }

    /// Bytes that wait for room in the socket; none while there is no child.
    pub fn queued(&self) -> Option<usize> {
        self.stream.as_ref().map(|_| self.output.len())
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.poll = Some((registry.try_clone()?, token));
        let mut streams = self.monitor.iter_mut().chain(&mut self.stream);
        streams.try_for_each(|stream| register(&self.poll, stream))
    }

    /// Sends a frame; without effect while there is no child.
    pub fn send(&mut self, kind: u8, payload: &[u8]) {
        if self.stream.is_some() {
            put(&mut self.output, kind, payload);
            // The next turn returns the same error, and the poll reports the socket.
            let _ = self.flush();
        }
    }

    /// Flushes the queue, and receives the next frame if it has arrived completely, or the news of another child. The
    /// end is reported once.
    pub fn turn(&mut self) -> Option<Turn> {
        loop {
            let received = self.flush().and_then(|()| match &mut self.stream {
                Some(stream) => read(stream, &mut self.input),
                None => Ok(None),
            });
            match received {
                Ok(Some((HELLO, why))) => return self.greeted(&why),
                Ok(Some((kind, payload))) => {
                    self.ended = 0;
                    return Some(Turn::Frame(kind, payload));
                }
                Ok(None) if self.stream.is_some() => return None,
                _ => {}
            }
            (self.input, self.output) = (Vec::new(), Vec::new());
            self.stream = None;
            match descriptors::receive(self.monitor.as_ref()?) {
                Ok(fd) => self.stream = self.connect(fd.into()).ok(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.monitor = None;
                    return Some(Turn::Ended);
                }
            }
        }
    }

    /// A child cannot work for a reason, or is ready.
    fn greeted(&mut self, why: &[u8]) -> Option<Turn> {
        self.ended += 1;
        Some(Turn::Restarted(why.is_empty() && self.ended <= MAX_REPEATS))
    }

    fn connect(&self, stream: UnixStream) -> io::Result<mio::net::UnixStream> {
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::UnixStream::from_std(stream);
        register(&self.poll, &mut stream).map(|()| stream)
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

fn register(poll: &Option<(Registry, Token)>, stream: &mut mio::net::UnixStream) -> io::Result<()> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    let mut poll = poll.iter();
    poll.try_for_each(|(registry, token)| registry.register(stream, *token, interest))
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

    /// The daemon's end, the stream of its child, and the monitor's end.
    fn channel() -> (Channel, UnixStream, UnixStream) {
        let [(monitor, control), (ours, theirs)] =
            [(); 2].map(|()| UnixStream::pair().expect("a pair"));
        let channel = Channel::new(Some(monitor), ours).expect("an option");
        (channel, theirs, control)
    }

    fn frame(kind: u8, payload: &[u8]) -> Option<Turn> {
        Some(Turn::Frame(kind, payload.to_vec()))
    }

    #[test]
    fn frames_arrive_whole_and_in_order_however_they_are_split() {
        let (mut channel, mut theirs, control) = channel();
        let mut bytes = Vec::new();
        put(&mut bytes, 7, b"");
        put(&mut bytes, 8, &[5; 1000]);
        put(&mut bytes, 9, b"end");
        for part in bytes.chunks(300) {
            theirs.write_all(part).expect("is sent");
        }
        assert_eq!(channel.turn(), frame(7, b""));
        assert_eq!(channel.turn(), frame(8, &[5; 1000]));
        theirs.write_all(&[1]).expect("is sent");
        assert_eq!(channel.turn(), frame(9, b"end"));
        assert_eq!(channel.turn(), None, "a frame of which one byte has come");
        drop(theirs);
        assert_eq!(channel.turn(), None);
        assert!(channel.is_up() && channel.queued().is_none());
        drop(control);
        assert_eq!(channel.turn(), Some(Turn::Ended));
        assert!(!channel.is_up());
        channel.send(1, b"nobody reads this");
        assert_eq!(channel.turn(), None);
        assert!(channel.output.is_empty());
    }

    #[test]
    fn nothing_of_a_child_that_ended_reaches_the_next() {
        let (mut channel, mut theirs, control) = channel();
        let mut repeats = Vec::new();
        for _ in 0..2 * MAX_REPEATS {
            while channel.queued() < Some(1) {
                channel.send(1, &[1; MAX_PAYLOAD]);
            }
            // Half a frame each way.
            theirs.write_all(&[9, 9, 0, 1]).expect("is sent");
            drop(theirs);
            assert_eq!(channel.turn(), None);
            channel.send(2, b"while there is no child");
            let (ours, next) = UnixStream::pair().expect("a pair");
            descriptors::send(&control, &ours).expect("is sent");
            assert_eq!(channel.turn(), None, "it is not ready yet");
            send(&next, HELLO, b"").expect("is sent");
            match channel.turn() {
                Some(Turn::Restarted(may_repeat)) => repeats.push(may_repeat),
                other => panic!("{other:?}"),
            }
            channel.send(3, b"first");
            assert_eq!(receive(&next).expect("is sent"), (3, b"first".to_vec()));
            theirs = next;
        }
        assert_eq!(repeats, [true, true, false, false]);
        send(&theirs, 5, b"").expect("is sent");
        assert_eq!(channel.turn(), frame(5, b""));
        assert_eq!(channel.ended, 0);
        send(&theirs, HELLO, b"no such directory").expect("is sent");
        assert_eq!(channel.turn(), Some(Turn::Restarted(false)));
    }

    #[test]
    fn frames_without_room_in_the_socket_are_sent_later() {
        let (mut channel, theirs, _control) = channel();
        let mut sent = 0_usize;
        while channel.queued() == Some(0) {
            channel.send(sent as u8, &[sent as u8; MAX_PAYLOAD]);
            sent += 1;
        }
        for number in 0..sent {
            let (kind, payload) = receive(&theirs).expect("is sent");
            assert_eq!(
                (kind, payload),
                (number as u8, vec![number as u8; MAX_PAYLOAD])
            );
            assert_eq!(channel.turn(), None);
        }
    }
}
