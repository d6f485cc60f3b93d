//! What two nodes say to each other over a stream, bytes to values and back. All numbers are big-endian.
//!
//! First each sends a greeting of 64 bytes, the node that asks before the other one:
//!
//! ```text
//! 0   version 1, kind 1 (1 asks, 2 answers), answer 1, zero 1, peer timeout in seconds 4, node id 8
//! 16  nonce 16, the other's nonce 16 (of who asks: zeros)
//! 48  message authentication code 16, under the key of the cluster
//! ```
//!
//! Everything after that is in frames, under a key for each direction that is made of both nonces:
//!
//! ```text
//! 0   bytes of content 4, kind 1, zero 3, number of the frame in its direction 8
//! 16  the content, then the message authentication code 16, over all before it
//! ```
//!
//! So a greeting can be repeated by anybody, and brings no more than one in return: what is sent after it
//! begins with a frame of who asks, and that needs the nonce of this stream. Numbers count from 1
//! without gaps, so frames cannot be repeated, left out or brought into another order, and a stream that
//! is cut off lacks the frame that says that it was all.

use super::wire::{Keys, Nonce, Party, Reader, SipKey, check_code, put_code};

const VERSION: u8 = 1;

/// Bytes of a greeting, and of a frame beside its content.
pub const GREETING: usize = 64;
const HEAD: usize = 16;
const CODE: usize = 16;
pub const AROUND: usize = HEAD + CODE;

/// Bytes of content in a frame.
pub const MOST: usize = 64 * 1024;

/// Why what was received is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Of another version of this protocol, or none of it at all.
    Version,
    /// Not made with the key, or not for this stream.
    Forged,
    /// Nonsense, or too long.
    Malformed,
}

impl Wrong {
    pub fn name(self) -> &'static str {
        match self {
            Wrong::Version => "it speaks another version of the protocol",
            Wrong::Forged => "it has another key",
            Wrong::Malformed => "what it sends makes no sense",
        }
    }
}

/// What the node that is asked for its table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It follows.
    Yes = 1,
    /// It is not whole itself.
    Syncing,
    /// It has others to serve.
    Busy,
    /// It hears nothing from the node that asks, and could not tell it what changes meanwhile.
    Stranger,
    /// It has another peer timeout.
    Timeout,
}

impl Answer {
    fn of(number: u8) -> Option<Answer> {
        use Answer::*;
        let all = [Yes, Syncing, Busy, Stranger, Timeout];
        all.into_iter().find(|answer| *answer as u8 == number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub from: Party,
    /// None in that of who asks.
    pub answer: Option<(Answer, Nonce)>,
    /// In seconds.
    pub peer_timeout: u32,
}

const ASKS: u8 = 1;
const ANSWERS: u8 = 2;

impl Greeting {
    pub fn seal(&self, keys: &Keys, out: &mut Vec<u8>) {
        let start = out.len();
        let (kind, answer, echo) = match self.answer {
            None => (ASKS, 0, Nonce::default()),
            Some((answer, echo)) => (ANSWERS, answer as u8, echo),
        };
        out.extend_from_slice(&[VERSION, kind, answer, 0]);
        out.extend_from_slice(&self.peer_timeout.to_be_bytes());
        out.extend_from_slice(&self.from.id.to_be_bytes());
        out.extend_from_slice(&self.from.nonce);
        out.extend_from_slice(&echo);
        put_code(out, start, keys.greetings());
    }

    /// None while it is not complete. What can be told from the first byte is told at once.
    pub fn open(bytes: &[u8], keys: &Keys) -> Result<Option<Greeting>, Wrong> {
        if bytes.first().is_some_and(|version| *version != VERSION) {
            return Err(Wrong::Version);
        }
        let Some(bytes) = bytes.get(..GREETING) else {
            return Ok(None);
        };
        let message = check_code(bytes, keys.greetings()).map_err(|_| Wrong::Forged)?;
        let greeting = Greeting::read(&mut Reader(message)).ok_or(Wrong::Malformed)?;
        Ok(Some(greeting))
    }

    fn read(reader: &mut Reader) -> Option<Greeting> {
        let [_version, kind, answer, _] = reader.array()?;
        let peer_timeout = reader.u32()?;
        let id = reader.u64()?;
        let nonce = reader.array()?;
        let echo = reader.array()?;
        Some(Greeting {
            from: Party { id, nonce },
            answer: match kind {
                ASKS => None,
                ANSWERS => Some((Answer::of(answer)?, echo)),
                _ => return None,
            },
            peer_timeout,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of who asks: begin. It has no content.
    Begin = 1,
    /// A piece of the table.
    Piece,
    /// That was all. It has no content.
    End,
}

impl Kind {
    fn of(number: u8) -> Option<Kind> {
        let all = [Kind::Begin, Kind::Piece, Kind::End];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Makes the frames of one direction.
#[derive(Debug)]
pub struct Sealer {
    key: SipKey,
    number: u64,
}

impl Sealer {
    pub fn new(keys: &Keys, us: &Party, them: &Party) -> Sealer {
        Sealer {
            key: keys.stream(us, them),
            number: 0,
        }
    }

    /// Writes content as so many frames as it needs, one at least.
    pub fn seal(&mut self, kind: Kind, content: &[u8], out: &mut Vec<u8>) {
        let mut rest = content;
        loop {
            let (part, others) = rest.split_at(rest.len().min(MOST));
            self.number += 1;
            let start = out.len();
            let length = part.len() as u32; // At most `MOST`.
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&[kind as u8, 0, 0, 0]);
            out.extend_from_slice(&self.number.to_be_bytes());
            out.extend_from_slice(part);
            put_code(out, start, self.key);
            if others.is_empty() {
                return;
            }
            rest = others;
        }
    }
}

/// Opens the frames of the other direction.
#[derive(Debug)]
pub struct Opener {
    key: SipKey,
    number: u64,
}

impl Opener {
    pub fn new(keys: &Keys, us: &Party, them: &Party) -> Opener {
        Opener {
            key: keys.stream(them, us),
            number: 0,
        }
    }

    /// The frame at the front, once it is complete and shown to be the next one.
    pub fn open<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Kind, &'a [u8])>, Wrong> {
        let mut reader = Reader(bytes);
        let Some(length) = reader.u32() else {
            return Ok(None);
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MOST {
            return Err(Wrong::Malformed);
        }
        let Some(frame) = bytes.get(..length + AROUND) else {
            return Ok(None);
        };
        let message = check_code(frame, self.key).map_err(|_| Wrong::Forged)?;
        let mut reader = Reader(message.get(4..).unwrap_or_default());
        let [kind, ..] = reader.array::<4>().ok_or(Wrong::Malformed)?;
        let number = reader.u64().ok_or(Wrong::Malformed)?;
        if number != self.number + 1 {
            return Err(Wrong::Forged);
        }
        self.number = number;
        let kind = Kind::of(kind).ok_or(Wrong::Malformed)?;
        Ok(Some((kind, reader.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(n: u8) -> Party {
        Party {
            id: n.into(),
            nonce: [n; 16],
        }
    }

    fn keys() -> Keys {
        Keys::new(&[7; 32])
    }

    fn greetings() -> [Greeting; 2] {
        let asks = Greeting {
            from: party(1),
            answer: None,
            peer_timeout: 2700,
        };
        let answers = Greeting {
            from: party(2),
            answer: Some((Answer::Busy, [1; 16])),
            peer_timeout: 60,
        };
        [asks, answers]
    }

    #[test]
    fn a_greeting_is_read_once_it_is_whole_and_only_with_the_key() {
        for greeting in greetings() {
            let mut bytes = Vec::new();
            greeting.seal(&keys(), &mut bytes);
            assert_eq!(bytes.len(), GREETING);
            for length in 0..GREETING {
                assert_eq!(Greeting::open(&bytes[..length], &keys()), Ok(None));
            }
            assert_eq!(Greeting::open(&bytes, &keys()), Ok(Some(greeting)));
            let other = Keys::new(&[8; 32]);
            assert_eq!(Greeting::open(&bytes, &other), Err(Wrong::Forged));
            for bit in 0..GREETING * 8 {
                let mut forged = bytes.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                let wrong = match bit / 8 {
                    0 => Wrong::Version,
                    _ => Wrong::Forged,
                };
                assert_eq!(Greeting::open(&forged, &keys()), Err(wrong));
            }
        }
        assert_eq!(Greeting::open(b"GET /", &keys()), Err(Wrong::Version));
    }

    fn ends() -> (Sealer, Opener) {
        let (us, them) = (party(1), party(2));
        (
            Sealer::new(&keys(), &us, &them),
            Opener::new(&keys(), &them, &us),
        )
    }

    #[test]
    fn frames_are_opened_in_order_and_once() {
        let (mut sealer, mut opener) = ends();
        let mut bytes = Vec::new();
        sealer.seal(Kind::Piece, b"first", &mut bytes);
        let first = bytes.len();
        sealer.seal(Kind::End, b"", &mut bytes);
        for length in 0..first {
            assert_eq!(opener.open(&bytes[..length]), Ok(None));
        }
        assert_eq!(opener.open(&bytes[first..]), Err(Wrong::Forged), "skipped");
        assert_eq!(opener.open(&bytes), Ok(Some((Kind::Piece, &b"first"[..]))));
        assert_eq!(opener.open(&bytes), Err(Wrong::Forged), "repeated");
        assert_eq!(
            opener.open(&bytes[first..]),
            Ok(Some((Kind::End, &b""[..])))
        );
    }

    #[test]
    fn frames_are_of_one_stream_and_one_direction() {
        let (mut sealer, _) = ends();
        let mut bytes = Vec::new();
        sealer.seal(Kind::Begin, b"", &mut bytes);
        let mut later = party(2);
        later.nonce[15] ^= 1;
        for (us, them) in [(party(1), party(2)), (later, party(1))] {
            let mut opener = Opener::new(&keys(), &us, &them);
            assert_eq!(opener.open(&bytes), Err(Wrong::Forged));
        }
    }

    #[test]
    fn no_bit_of_a_frame_can_be_changed() {
        let (mut sealer, mut opener) = ends();
        let mut bytes = Vec::new();
        sealer.seal(Kind::Piece, b"some content", &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            forged.resize(forged.len() + 256, 0);
            // A length that is another one either has another code behind it or is beyond the most.
            let opened = opener.open(&forged);
            assert!(!matches!(opened, Ok(Some(_))), "{bit}");
        }
        assert!(matches!(opener.open(&bytes), Ok(Some(_))));
    }

    #[test]
    fn long_content_takes_several_frames_and_longer_ones_are_refused() {
        let (mut sealer, mut opener) = ends();
        let mut bytes = Vec::new();
        let content: Vec<u8> = (0..MOST + 1).map(|i| i as u8).collect();
        sealer.seal(Kind::Piece, &content, &mut bytes);
        assert_eq!(bytes.len(), content.len() + 2 * AROUND);
        let first = MOST + AROUND;
        assert_eq!(
            opener.open(&bytes),
            Ok(Some((Kind::Piece, &content[..MOST])))
        );
        assert_eq!(
            opener.open(&bytes[first..]),
            Ok(Some((Kind::Piece, &content[MOST..])))
        );
        let absurd = (MOST as u32 + 1).to_be_bytes();
        assert_eq!(opener.open(&absurd), Err(Wrong::Malformed));
        assert_eq!(opener.open(&[0xff; 4]), Err(Wrong::Malformed));
    }
}
