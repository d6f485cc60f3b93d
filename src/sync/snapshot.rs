//! The whole table from one node to another that joins, as two plain values: bytes go in, bytes come out, and
//! a step does a slice of the work. They care neither what stream it is nor who drives it.
//!
//! [`Offer`] is the end that is asked, [`Fetch`] the one that asks. After the greetings (see
//! [`stream`](super::stream)) the table comes in the format of [`state`](crate::state), compressed with
//! deflate (RFC 1951), a frame or two for each slice. Nothing is inflated before its frame is shown to be
//! genuine, and then no more of it than a slice at a time, so that it takes no more room however much
//! comes out.
//!
//! Nothing is told on such a stream that could not have come in packets: peers with their stamps and roles,
//! counts, stops. So all of it is applied by the same rules, whatever has been heard meanwhile, and a
//! stream that is cut off leaves what is true. What changes at the other end after the beginning of a
//! stream is told in packets, which is why it begins only where both hear each other.

use super::node::apply_all;
use super::stream::{AROUND, Answer, GREETING, Greeting, Kind, MOST, Opener, Sealer, Wrong};
use super::wire::{Keys, Party};
use crate::state::{Damage, Item, Reader, Writer, Written};
use crate::tracker::ledger::{Change, Key, State};
use crate::tracker::{Applied, Clock, InfoHash, LIFE, Peer, Role, STAMP_MASK, Tracker};
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, compress_to_output};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{
    DecompressorOxide, decompress_with_limit, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT,
};
use std::fmt;

/// Deflate's cheapest level: one earlier place is looked at, and what is found there is taken. Info-hashes
/// and addresses, which nearly all of it is, hardly compress with any.
const FLAGS: u32 = 1 | 0x4000;

/// Torrents and peers of a slice that is made.
const BUDGET: usize = 1024;

/// Inflated bytes of a slice that is taken: a thousand peers.
const SLICE: usize = 8 * 1024;

/// What deflate may refer back to.
const WINDOW: usize = 32 * 1024;

/// Places that are looked at in a slice of the search for those who have stopped.
const SEARCHED: usize = 4096;

/// Why an end gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Wrong(Wrong),
    /// The other node does not give its table.
    Refused(Answer),
    /// What was inflated is no table.
    Damage(Damage),
    /// It cannot be inflated.
    Deflate,
    /// The clock of the cluster was set meanwhile.
    Clock,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Failure::Wrong(wrong) => wrong.name(),
            Failure::Refused(Answer::Syncing) => "it is not whole itself yet",
            Failure::Refused(Answer::Busy) => "it serves others first",
            Failure::Refused(Answer::Stranger) => "it does not hear this node",
            Failure::Refused(Answer::Timeout) => "it has another peer timeout",
            Failure::Refused(Answer::Yes) | Failure::Damage(_) | Failure::Deflate => {
                "what it sent is damaged"
            }
            Failure::Clock => "cluster time was set meanwhile",
        })
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Failure {
        Failure::Wrong(wrong)
    }
}

/// What the node that is asked knows of itself.
pub struct Host<'a> {
    pub is_whole: bool,
    /// Whether one more can be served.
    pub has_place: bool,
    /// In seconds.
    pub peer_timeout: u32,
    /// Whether the node of this id is heard, and so will be told what changes from now on.
    pub hears: &'a dyn Fn(u64) -> bool,
}

/// The end that is asked.
pub struct Offer {
    keys: Keys,
    us: Party,
    stage: Stage,
    /// Received, and not yet read.
    held: Vec<u8>,
}

enum Stage {
    /// The other's greeting is to come.
    New,
    /// It has come; who it is.
    Greeted(Greeting),
    /// It has been answered; its first frame is to come.
    Answered(Party),
    Giving(Box<Giving>),
    Given(Written),
    Refused,
}

impl Offer {
    /// The party is this node, with a nonce of this stream's own.
    pub fn new(keys: Keys, us: Party) -> Offer {
        Offer {
            keys,
            us,
            stage: Stage::New,
            held: Vec::new(),
        }
    }

    /// Whether the other end has proved to have the key, now and not in an earlier stream.
    pub fn is_proved(&self) -> bool {
        matches!(self.stage, Stage::Giving(_) | Stage::Given(_))
    }

    /// Whether the table is on its way.
    pub fn is_giving(&self) -> bool {
        matches!(self.stage, Stage::Giving(_))
    }

    /// Whether it waits for a change in what [`Host`] tells, and not for the other end.
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Greeted(_))
    }

    /// Whether all has been said.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Given(_) | Stage::Refused)
    }

    /// What has been written, once that was all.
    pub fn given(&self) -> Option<Written> {
        match self.stage {
            Stage::Given(written) => Some(written),
            _ => None,
        }
    }

    /// Takes what was received; who asks has little to say.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let most = match self.stage {
            Stage::New | Stage::Greeted(_) => GREETING + AROUND,
            _ => AROUND,
        };
        if self.held.len() + bytes.len() > most {
            return Err(Wrong::Malformed.into());
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// Reads what has come, and answers it.
    pub fn converse(
        &mut self,
        host: &Host,
        tracker: &Tracker,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if let Stage::New = self.stage {
            let Some(greeting) = Greeting::open(&self.held, &self.keys)? else {
                return Ok(());
            };
            if greeting.answer.is_some() || greeting.from.id == self.us.id {
                return Err(Wrong::Malformed.into());
            }
            self.held.drain(..GREETING);
            self.stage = Stage::Greeted(greeting);
        }
        if let Stage::Greeted(greeting) = self.stage {
            let answer = match greeting.peer_timeout == host.peer_timeout {
                false => Answer::Timeout,
                true if !host.is_whole => Answer::Syncing,
                true if !host.has_place => Answer::Busy,
                // It may be that its packets are on their way.
                true if !(host.hears)(greeting.from.id) => return Ok(()),
                true => Answer::Yes,
            };
            self.answer(&greeting, answer, host.peer_timeout, out);
        }
        if let Stage::Answered(them) = self.stage {
            let mut opener = Opener::new(&self.keys, &self.us, &them);
            match opener.open(&self.held)? {
                None => {}
                Some((Kind::Begin, [])) => {
                    self.held = Vec::new();
                    let giving = Giving::new(Sealer::new(&self.keys, &self.us, &them), tracker);
                    self.stage = Stage::Giving(Box::new(giving.ok_or(Failure::Clock)?));
                }
                Some(_) => return Err(Wrong::Malformed.into()),
            }
        }
        Ok(())
    }

    /// Gives up waiting for this node to be heard.
    pub fn dismiss(&mut self, host: &Host, out: &mut Vec<u8>) {
        if let Stage::Greeted(greeting) = self.stage {
            self.answer(&greeting, Answer::Stranger, host.peer_timeout, out);
        }
    }

    fn answer(
        &mut self,
        greeting: &Greeting,
        answer: Answer,
        peer_timeout: u32,
        out: &mut Vec<u8>,
    ) {
        let reply = Greeting {
            from: self.us,
            answer: Some((answer, greeting.from.nonce)),
            peer_timeout,
        };
        reply.seal(&self.keys, out);
        self.stage = match answer {
            Answer::Yes => Stage::Answered(greeting.from),
            _ => Stage::Refused,
        };
    }

    /// Writes a slice of the table; whether there is more.
    pub fn step(&mut self, tracker: &Tracker, out: &mut Vec<u8>) -> Result<bool, Failure> {
        let Stage::Giving(giving) = &mut self.stage else {
            return Ok(false);
        };
        let is_more = giving.step(tracker, out)?;
        if !is_more {
            self.stage = Stage::Given(giving.writer.written());
        }
        Ok(is_more)
    }
}

/// A table on its way out.
struct Giving {
    sealer: Sealer,
    writer: Writer,
    compressor: Box<CompressorOxide>,
    /// What relates the table's time to cluster time: it must not change while units are written.
    shift: u64,
    slice: Vec<u8>,
    packed: Vec<u8>,
}

impl Giving {
    fn new(sealer: Sealer, tracker: &Tracker) -> Option<Giving> {
        let mut slice = Vec::new();
        let writer = Writer::for_cluster(tracker, &mut slice)?;
        Some(Giving {
            sealer,
            writer,
            compressor: Box::new(CompressorOxide::new(FLAGS)),
            shift: tracker.ledger()?.shift,
            slice,
            packed: Vec::new(),
        })
    }

    fn step(&mut self, tracker: &Tracker, out: &mut Vec<u8>) -> Result<bool, Failure> {
        if tracker.ledger().is_none_or(|l| l.shift != self.shift) {
            return Err(Failure::Clock);
        }
        let is_more = self.writer.step_shard(tracker, BUDGET, &mut self.slice);
        // A slice ends its block, so that no step has much to encode, and what it makes is all there.
        let flush = match is_more {
            true => TDEFLFlush::Sync,
            false => TDEFLFlush::Finish,
        };
        let packed = &mut self.packed;
        packed.clear();
        compress_to_output(&mut self.compressor, &self.slice, flush, |made| {
            packed.extend_from_slice(made);
            true
        });
        self.slice.clear();
        self.sealer.seal(Kind::Piece, &self.packed, out);
        if !is_more {
            self.sealer.seal(Kind::End, &[], out);
        }
        Ok(is_more)
    }
}

/// How far a table is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing can be done before more comes.
    Waits,
    /// There is more to do now.
    Underway,
    /// The node is whole.
    Whole,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub torrents: u64,
    /// Peers of which this much is known now, by this table or before.
    pub peers: u64,
    /// Peers that there was no room for.
    pub left_out: u64,
    /// Torrents that the list of info-hashes does not allow.
    pub refused: u64,
    /// Stops, and bytes as they came.
    pub stops: u64,
    pub bytes: u64,
}

/// The end that asks.
pub struct Fetch {
    keys: Keys,
    us: Party,
    peer_timeout: u32,
    phase: Phase,
    /// Received, and not yet read: no more than a frame.
    held: Vec<u8>,
    taken: Taken,
}

enum Phase {
    /// The answer to our greeting is to come.
    Asked,
    Taking(Box<Taking>),
    /// All has come; peers that had stopped are searched for from here on.
    Searching(Key),
    Whole,
}

impl Fetch {
    /// Begins by writing the greeting. The party is this node, with a nonce of this stream's own; the peer
    /// timeout is in seconds.
    pub fn new(keys: Keys, us: Party, peer_timeout: u32, out: &mut Vec<u8>) -> Fetch {
        let greeting = Greeting {
            from: us,
            answer: None,
            peer_timeout,
        };
        greeting.seal(&keys, out);
        Fetch {
            keys,
            us,
            peer_timeout,
            phase: Phase::Asked,
            held: Vec::new(),
            taken: Taken::default(),
        }
    }

    pub fn taken(&self) -> Taken {
        self.taken
    }

    /// Whether pieces of the table have come.
    pub fn has_begun(&self) -> bool {
        self.taken.bytes > GREETING as u64
    }

    /// How many bytes it can take now.
    pub fn room(&self) -> usize {
        match &self.phase {
            Phase::Taking(taking) if !taking.is_hungry() => 0,
            Phase::Searching(_) | Phase::Whole => 0,
            _ => (MOST + AROUND).saturating_sub(self.held.len()),
        }
    }

    /// Takes what was received, as much as there is [`Fetch::room`] for.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.taken.bytes += bytes.len() as u64;
        self.held.extend_from_slice(bytes);
    }

    /// Does a slice of what there is to do. `refuses` says which torrents are not tracked here; `out` is for
    /// the other end.
    pub fn step(
        &mut self,
        tracker: &mut Tracker,
        refuses: &dyn Fn(&InfoHash) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Failure> {
        match &mut self.phase {
            Phase::Asked => self.hear_answer(tracker, out),
            Phase::Taking(taking) => {
                if taking.step(tracker, refuses, &mut self.taken)? {
                    return Ok(Progress::Underway);
                }
                self.next_frame()
            }
            Phase::Searching(from) => {
                match tracker.drop_stopped(from, SEARCHED) {
                    Some(next) => *from = next,
                    None => self.phase = Phase::Whole,
                }
                Ok(Progress::Underway)
            }
            Phase::Whole => Ok(Progress::Whole),
        }
    }

    fn hear_answer(&mut self, tracker: &Tracker, out: &mut Vec<u8>) -> Result<Progress, Failure> {
        let Some(greeting) = Greeting::open(&self.held, &self.keys)? else {
            return Ok(Progress::Waits);
        };
        let them = greeting.from;
        let (answer, echo) = greeting.answer.ok_or(Wrong::Malformed)?;
        if echo != self.us.nonce {
            return Err(Wrong::Forged.into());
        }
        if answer != Answer::Yes {
            return Err(Failure::Refused(answer));
        }
        if greeting.peer_timeout != self.peer_timeout {
            return Err(Failure::Refused(Answer::Timeout));
        }
        self.held.drain(..GREETING);
        Sealer::new(&self.keys, &self.us, &them).seal(Kind::Begin, &[], out);
        let opener = Opener::new(&self.keys, &self.us, &them);
        self.phase = Phase::Taking(Box::new(Taking::new(opener, tracker.unit_ms())));
        Ok(Progress::Underway)
    }

    /// All before has been taken.
    fn next_frame(&mut self) -> Result<Progress, Failure> {
        let Phase::Taking(taking) = &mut self.phase else {
            return Ok(Progress::Waits);
        };
        let Some((kind, content)) = taking.opener.open(&self.held)? else {
            return Ok(Progress::Waits);
        };
        let length = content.len() + AROUND;
        match kind {
            Kind::Piece => {
                taking.packed.clear();
                taking.packed.extend_from_slice(content);
                taking.inflated_of_packed = 0;
            }
            Kind::End if content.is_empty() && length == self.held.len() => {
                let reader = std::mem::take(&mut taking.reader);
                reader.finish().map_err(Failure::Damage)?;
                self.phase = match self.taken.stops {
                    0 => Phase::Whole,
                    _ => Phase::Searching(Key::FIRST),
                };
                self.held = Vec::new();
                return Ok(Progress::Underway);
            }
            Kind::End | Kind::Begin => return Err(Wrong::Malformed.into()),
        }
        self.held.drain(..length);
        Ok(Progress::Underway)
    }
}

/// A table on its way in.
struct Taking {
    opener: Opener,
    /// The content of a frame, and how much of it has been inflated.
    packed: Vec<u8>,
    inflated_of_packed: usize,
    inflater: Box<DecompressorOxide>,
    window: Box<[u8]>,
    /// Where inflated bytes go next.
    at: usize,
    has_more_output: bool,
    reader: Reader,
    merge: Merge,
}

impl Taking {
    fn new(opener: Opener, unit_ms: u64) -> Taking {
        Taking {
            opener,
            packed: Vec::new(),
            inflated_of_packed: 0,
            inflater: Box::default(),
            window: vec![0; WINDOW].into_boxed_slice(),
            at: 0,
            has_more_output: false,
            reader: Reader::of_cluster(),
            merge: Merge::new(unit_ms),
        }
    }

    /// Whether all that has come is taken.
    fn is_hungry(&self) -> bool {
        self.inflated_of_packed == self.packed.len() && !self.has_more_output
    }

    /// Inflates and applies a slice; false if there is nothing to inflate.
    fn step(
        &mut self,
        tracker: &mut Tracker,
        refuses: &dyn Fn(&InfoHash) -> bool,
        taken: &mut Taken,
    ) -> Result<bool, Failure> {
        if self.is_hungry() {
            return Ok(false);
        }
        let start = self.at % WINDOW;
        let packed = self.packed.get(self.inflated_of_packed..);
        let (status, used, made) = decompress_with_limit(
            &mut self.inflater,
            packed.unwrap_or_default(),
            &mut self.window,
            start,
            SLICE,
            TINFL_FLAG_HAS_MORE_INPUT,
        );
        match status {
            TINFLStatus::Done | TINFLStatus::NeedsMoreInput => self.has_more_output = false,
            TINFLStatus::HasMoreOutput => self.has_more_output = true,
            _ => return Err(Failure::Deflate),
        }
        self.inflated_of_packed += used;
        self.at = start + made;
        // Behind the end of the deflated data there is nothing.
        if status == TINFLStatus::Done && !self.is_hungry() {
            return Err(Failure::Deflate);
        }
        let inflated = self.window.get(start..start + made).unwrap_or_default();
        self.merge.begin(tracker);
        let merge = &mut self.merge;
        let fed = self.reader.feed(inflated, &mut |item| {
            merge.take(item, refuses, tracker, taken)
        });
        fed.map_err(Failure::Damage)?;
        match merge.finish(tracker, taken) {
            true => Ok(true),
            false => Err(Failure::Refused(Answer::Timeout)),
        }
    }
}

/// Items of a table on their way into another.
struct Merge {
    unit_ms: u64,
    /// The unit of cluster time that ages count from at the beginning, and now.
    began: u64,
    counted_from: u64,
    /// The unit that it is here.
    now: u64,
    /// The last torrent, unless it is refused.
    torrent: Option<InfoHash>,
    is_sound: bool,
    changes: Vec<Change>,
    /// Info-hash, downloaded count, and seconds without peers.
    memories: Vec<(InfoHash, u32, u32)>,
}

impl Merge {
    fn new(unit_ms: u64) -> Merge {
        Merge {
            unit_ms,
            began: 0,
            counted_from: 0,
            now: 0,
            torrent: None,
            is_sound: true,
            changes: Vec::new(),
            memories: Vec::new(),
        }
    }

    fn begin(&mut self, tracker: &Tracker) {
        self.now = tracker.cluster_unit().unwrap_or(0);
    }

    fn take(
        &mut self,
        item: Item,
        refuses: &dyn Fn(&InfoHash) -> bool,
        tracker: &mut Tracker,
        taken: &mut Taken,
    ) {
        match item {
            Item::Header {
                unit_ms,
                saved_at,
                into_unit,
            } => {
                self.is_sound = u64::from(unit_ms) == self.unit_ms;
                let began = saved_at.saturating_sub(into_unit.into()) / self.unit_ms;
                self.began = began.saturating_add(Clock::AHEAD.into());
                self.counted_from = self.began;
            }
            Item::Time { units } => self.counted_from = self.began.saturating_add(units),
            Item::Torrent {
                info_hash,
                downloaded,
                empty_for,
            } => {
                self.torrent = (!refuses(&info_hash)).then_some(info_hash);
                match self.torrent {
                    Some(_) => {
                        taken.torrents += 1;
                        self.memories
                            .push((info_hash, downloaded, empty_for.unwrap_or(0)));
                    }
                    None => taken.refused += 1,
                }
            }
            Item::Peer {
                list,
                endpoint,
                completed,
                age,
            } => self.peer(list, endpoint, completed, age),
            Item::Stop { fingerprint, age } => {
                taken.stops += 1;
                tracker.merge_stop(fingerprint, self.counted_from.wrapping_sub(age.into()));
            }
        }
    }

    fn peer(&mut self, list: u8, endpoint: &[u8], completed: bool, age: u8) {
        let (Some(info_hash), Some(peer)) = (self.torrent, Peer::from_endpoint(endpoint)) else {
            return;
        };
        let unit = self.counted_from.saturating_sub(age.into());
        // The stamp of any other would name another time.
        let is_near = unit <= self.now.saturating_add(Clock::AHEAD.into());
        if !is_near || self.now.saturating_sub(unit) > LIFE {
            return;
        }
        self.changes.push(Change {
            info_hash,
            peer,
            state: State::Present(match list % 2 {
                0 => Role::Leecher,
                _ => Role::Seeder,
            }),
            completed,
            newly_completed: false,
            stamp: unit as u8 & STAMP_MASK,
        });
    }

    /// Applies what has been gathered; false if the units are not ours.
    fn finish(&mut self, tracker: &mut Tracker, taken: &mut Taken) -> bool {
        if self.is_sound {
            // `take` has passed over the torrents that the list refuses.
            apply_all(
                &self.changes,
                tracker,
                &|_| false,
                &mut |_, applied| match applied {
                    // By records and repair, which are at it too, peers may have come before.
                    Applied::Changed | Applied::Known => taken.peers += 1,
                    Applied::NoRoom => taken.left_out += 1,
                    _ => {}
                },
            );
            for (info_hash, downloaded, empty_for) in &self.memories {
                tracker.merge_memory(info_hash, *downloaded, *empty_for);
            }
        }
        self.changes.clear();
        self.memories.clear();
        self.is_sound
    }
}

#[cfg(test)]
mod tests;
