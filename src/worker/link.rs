//! The stream between the parent and a worker: what is ordered, and what is reported.
//!
//! Frames are kind 1, argument 1, count 2 (little-endian), then so many info-hashes. Neither end waits for
//! the other: what cannot be sent now is kept.

use crate::sys::chunks::as_chunks;
use crate::tracker::InfoHash;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    // To a worker.
    /// Close all sockets, and end.
    Stop,
    /// There are no others any more: save the state, if there is one, and end.
    Last,
    Save,
    /// Serve the sockets of the worker of this number.
    Serve(u8),
    /// No longer.
    Leave(u8),

    // To the parent.
    /// The table is whole.
    Ready,
    /// A stream to a worker that has the table is wanted.
    Ask,
    /// The end is in good order: what was to be saved is.
    Done,

    // To both.
    /// Begin to read the list anew. From the gateway: it does so at this point of what it reports.
    Reload,
    /// These were put on the list, or taken off it.
    Changes {
        listed: bool,
        hashes: Vec<InfoHash>,
    },
}

const STOP: u8 = 1;
const LAST: u8 = 2;
const SAVE: u8 = 3;
const SERVE: u8 = 4;
const LEAVE: u8 = 5;
const READY: u8 = 6;
const DONE: u8 = 7;
const RELOAD: u8 = 8;
const CHANGES: u8 = 9;
const ASK: u8 = 10;

const HEADER: usize = 4;
const HASH: usize = size_of::<InfoHash>();

/// Hashes in a frame.
pub const MOST_HASHES: usize = 512;

impl Message {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, argument, hashes): (u8, u8, &[InfoHash]) = match self {
            Message::Stop => (STOP, 0, &[]),
            Message::Last => (LAST, 0, &[]),
            Message::Save => (SAVE, 0, &[]),
            Message::Serve(number) => (SERVE, *number, &[]),
            Message::Leave(number) => (LEAVE, *number, &[]),
            Message::Ready => (READY, 0, &[]),
            Message::Ask => (ASK, 0, &[]),
            Message::Done => (DONE, 0, &[]),
            Message::Reload => (RELOAD, 0, &[]),
            Message::Changes { listed, hashes } => (CHANGES, u8::from(*listed), hashes),
        };
        let mut put = |hashes: &[InfoHash]| {
            let count = u16::try_from(hashes.len()).unwrap_or(0);
            out.extend_from_slice(&[kind, argument]);
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(hashes.as_flattened());
        };
        match hashes {
            [] => put(&[]),
            _ => hashes.chunks(MOST_HASHES).for_each(put),
        }
    }

    fn read([kind, argument, ..]: [u8; HEADER], payload: &[u8]) -> Option<Message> {
        let (hashes, _) = as_chunks::<HASH>(payload);
        Some(match kind {
            STOP => Message::Stop,
            LAST => Message::Last,
            SAVE => Message::Save,
            SERVE => Message::Serve(argument),
            LEAVE => Message::Leave(argument),
            READY => Message::Ready,
            ASK => Message::Ask,
            DONE => Message::Done,
            RELOAD => Message::Reload,
            CHANGES => Message::Changes {
                listed: argument != 0,
                hashes: hashes.to_vec(),
            },
            _ => return None,
        })
    }
}

/// One end of it.
pub struct Link {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Both ends: of the parent, and of the worker.
pub fn pair() -> io::Result<(Link, Link)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((Link::new(ours)?, Link::new(theirs)?))
}

impl Link {
    fn new(stream: UnixStream) -> io::Result<Link> {
        stream.set_nonblocking(true)?;
        Ok(Link {
            stream,
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Keeps it open until the process ends, whatever becomes of the value. A worker whose link has ended is killed,
    /// and one that cannot go on has yet to say why when all that it has is dropped.
    pub fn hold(&self) -> io::Result<()> {
        std::mem::forget(self.stream.try_clone()?);
        Ok(())
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.output.len()
    }

    /// An error is found again by [`Link::receive`].
    pub fn send(&mut self, message: &Message) {
        message.put(&mut self.output);
        self.flush();
    }

    /// Sends as much of what waits as there is room for.
    pub fn flush(&mut self) {
        let mut sent = 0;
        while let Some(rest) = self.output.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody is there any more.
                Err(_) => sent = self.output.len(),
            }
        }
        self.output.drain(..sent);
    }

    /// What has come; none if nothing has. An error is the other end's end.
    pub fn receive(&mut self) -> io::Result<Option<Message>> {
        loop {
            let header = self.input.first_chunk().copied();
            let wanted = header.map_or(HEADER, |header| HEADER + payload_length(header));
            let filled = self.input.len();
            if let (Some(header), true) = (header, filled == wanted) {
                let message = Message::read(header, self.input.get(HEADER..).unwrap_or_default());
                self.input.clear();
                return message.ok_or(ErrorKind::InvalidData.into()).map(Some);
            }
            self.input.resize(wanted, 0);
            let room = self.input.get_mut(filled..).unwrap_or_default();
            let read = self.stream.read(room);
            let count = read.as_ref().map_or(0, |count| *count);
            self.input.truncate(filled + count);
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn payload_length([_, _, low, high]: [u8; HEADER]) -> usize {
    usize::from(u16::from_le_bytes([low, high])) * HASH
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Message> {
        let hashes: Vec<InfoHash> = (0..MOST_HASHES).map(|n| [n as u8; 20]).collect();
        let changes = |listed| Message::Changes {
            listed,
            hashes: hashes.clone(),
        };
        vec![
            Message::Stop,
            Message::Last,
            Message::Save,
            Message::Serve(63),
            changes(true),
            Message::Leave(7),
            Message::Ready,
            Message::Ask,
            Message::Done,
            Message::Reload,
            changes(false),
        ]
    }

    #[test]
    fn what_is_sent_is_received_until_nobody_is_there() {
        let (mut ours, mut theirs) = pair().expect("sockets");
        for message in all() {
            ours.send(&message);
            assert_eq!(theirs.receive().expect("is there"), Some(message));
        }
        assert_eq!(theirs.receive().expect("is there"), None);
        drop(ours);
        assert!(theirs.receive().is_err());
        theirs.send(&Message::Ready);
        assert_eq!(theirs.waiting(), 0, "nothing piles up for nobody");
    }

    #[test]
    fn what_has_no_room_waits_and_is_split() {
        let (mut ours, mut theirs) = pair().expect("sockets");
        let hashes: Vec<InfoHash> = (0..100_000_u32)
            .map(|n| {
                let mut hash = [0; 20];
                hash[..4].copy_from_slice(&n.to_be_bytes());
                hash
            })
            .collect();
        ours.send(&Message::Changes {
            listed: true,
            hashes: hashes.clone(),
        });
        assert!(ours.waiting() > 0);
        let mut received = Vec::new();
        while received.len() < hashes.len() {
            match theirs.receive().expect("is there") {
                Some(Message::Changes { listed, hashes }) => {
                    assert!(listed && hashes.len() <= MOST_HASHES);
                    received.extend(hashes);
                }
                Some(other) => panic!("{other:?}"),
                None => ours.flush(),
            }
        }
        assert!(received == hashes && ours.waiting() == 0);
    }

    #[test]
    fn it_does_not_matter_where_pieces_end_and_nonsense_is_an_end() {
        let mut bytes = Vec::new();
        all().iter().for_each(|message| message.put(&mut bytes));
        let (mut raw, stream) = UnixStream::pair().expect("sockets");
        let mut link = Link::new(stream).expect("an option");
        let mut received = Vec::new();
        for byte in bytes.chunks(3) {
            raw.write_all(byte).expect("has room");
            while let Some(message) = link.receive().expect("is there") {
                received.push(message);
            }
        }
        assert_eq!(received, all());
        raw.write_all(&[99, 0, 0, 0]).expect("has room");
        assert!(link.receive().is_err());
    }
}
