//! One other node: the handshake with it, what has arrived from it and what has not, and the counters.

use super::clock::Samples;
use super::wire::{Hello, Keys, Nonce, Party, Pulse, Rejection, Session};
use crate::tracker::ledger::ROWS;
use std::net::SocketAddr;

/// Milliseconds without a packet after which a node counts as gone.
pub const SILENCE: u64 = 5000;

/// Milliseconds from a hello to the next one, at first and at most.
const FIRST_WAIT: u64 = 1000;
const LONGEST_WAIT: u64 = 8000;

/// Milliseconds between answers to hellos, which anybody can repeat.
const ANSWER: u64 = 50;

/// A batch that has not come after this many milliseconds is asked for: it may only be late.
const REORDERED: u64 = 250;
/// Milliseconds from one request to the next, and how many there are. With a fifth of all packets lost, one
/// request in three is in vain: after eight, one batch in 4000 is left to repair, which takes ten seconds.
const RETRY: u64 = 500;
const TRIES: u8 = 8;
/// Milliseconds by which the time of another node may seem to differ, that of a slow line included.
const APART: u64 = 2500;

/// Batches that may be missing; beyond that repair is cheaper.
const MOST_MISSING: usize = 256;

/// Bytes that repair may take a second where a tenth of the traffic is less.
const REPAIR_RATE: u64 = 1 << 20;
/// Bytes that repair may send at once.
const REPAIR_BURST: u64 = 256 << 10;
/// Milliseconds until a link is tried again that has had its share of traffic.
pub const REPAIR_WAIT: u64 = 10;

/// What is counted of a node. Bytes are those of UDP payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub records_in: u64,
    pub records_out: u64,
    /// Batches that did not come in order or at all.
    pub gaps: u64,
    /// Batches sent again because the other asked for them.
    pub resends: u64,
    /// Batches given up.
    pub lost: u64,
    /// Records that repair brought, sent and received, and the bytes of all that it sent.
    pub repairs_in: u64,
    pub repairs_out: u64,
    pub repair_bytes_out: u64,
    /// By the number of the [`Rejection`].
    pub rejections: [u64; Rejection::COUNT],
}

impl Counters {
    pub const NONE: Counters = Counters {
        packets_in: 0,
        packets_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        records_in: 0,
        records_out: 0,
        gaps: 0,
        resends: 0,
        lost: 0,
        repairs_in: 0,
        repairs_out: 0,
        repair_bytes_out: 0,
        rejections: [0; Rejection::COUNT],
    };

    /// Peers that the node told of.
    pub fn told(&self) -> u64 {
        self.records_in + self.repairs_in
    }

    pub fn reject(&mut self, why: Rejection) {
        self.rejections[why as usize % Rejection::COUNT] += 1;
    }
}

#[derive(Debug)]
pub struct Link {
    /// Tells it from all other links that there ever were.
    pub number: u32,
    pub address: SocketAddr,
    /// The address is one of the operator's; other links go when they fall silent.
    pub is_configured: bool,
    /// When what was sent there last came back.
    pub own_at: Option<u64>,
    /// 0 until it is known.
    pub id: u64,
    /// What the last hello said, which may have been an old one.
    pub claimed_id: u64,
    /// For which it was refused since it was last there, in seconds.
    pub other_timeout: Option<u32>,
    /// Our nonce for the next session.
    pending: Option<Nonce>,
    pub session: Option<Session>,
    /// Begins with the first packet that is of it, which only the real node can send; with its hello.
    tentative: Option<(Session, Hello)>,
    /// The other end has shown that it is in the session too.
    is_confirmed: bool,
    pub is_up: bool,
    pub heard_at: u64,
    hello_at: u64,
    hello_wait: u64,
    answered_at: Option<u64>,
    /// The other's last cookie, and when it came.
    cookie: Option<(u64, u64)>,
    pub samples: Samples,
    pub sure_for: u32,
    /// The number of the batch that is expected next; 0 before the first session, though the id may be known.
    next_batch: u64,
    missing: Vec<Missing>,
    /// Milliseconds from the first announce of the last batch to its arrival.
    pub lag: u64,
    /// Whether the tables agreed when they were last compared, what was on its way aside.
    pub agrees: Option<bool>,
    /// What it last told of its rows.
    pub rows: Rows,
    /// Bytes that repair may still send now.
    pub allowance: u64,
    refilled_at: u64,
    refilled_bytes: u64,
    pub counters: Counters,
}

#[derive(Debug)]
struct Missing {
    batch: u64,
    at: u64,
    tries: u8,
}

/// How rows of digests compared the last time.
#[derive(Debug)]
pub struct Rows {
    pub at: Option<u64>,
    pub sixth: u64,
    /// How far off each was, and how often in turn it has been.
    pub off: [(u64, u8); ROWS],
}

impl Default for Rows {
    fn default() -> Rows {
        Rows {
            at: None,
            sixth: 0,
            off: [(0, 0); ROWS],
        }
    }
}

impl Link {
    pub fn new(number: u32, address: SocketAddr, is_configured: bool, now: u64) -> Link {
        Link {
            number,
            address,
            is_configured,
            own_at: None,
            id: 0,
            claimed_id: 0,
            other_timeout: None,
            pending: None,
            session: None,
            tentative: None,
            is_confirmed: false,
            is_up: false,
            heard_at: now,
            hello_at: now,
            hello_wait: FIRST_WAIT,
            answered_at: None,
            cookie: None,
            samples: Samples::default(),
            sure_for: 0,
            next_batch: 0,
            missing: Vec::new(),
            lag: 0,
            agrees: None,
            rows: Rows::default(),
            allowance: REPAIR_BURST,
            refilled_at: now,
            refilled_bytes: 0,
            counters: Counters::default(),
        }
    }

    /// Who came by itself and has not shown that it has the key, and that now: it may be anybody.
    pub fn is_stranger(&self) -> bool {
        !self.is_configured && self.session.is_none()
    }

    /// Whether what is sent there comes back, now and not once: the operator has named this very node among the
    /// others.
    pub fn is_own(&self, now: u64) -> bool {
        let is_recent = |at| now - at <= 2 * LONGEST_WAIT;
        self.session.is_none() && self.own_at.is_some_and(is_recent)
    }

    /// Whether it is time to say hello: there is no session, or it has fallen silent. A
    /// stranger's address may be forged: it is answered and no more.
    pub fn wants_hello(&mut self, now: u64) -> bool {
        let is_silent = now - self.heard_at > SILENCE;
        if self.is_stranger() {
            return false;
        }
        if self.session.is_some() && !is_silent || now < self.hello_at {
            return false;
        }
        self.hello_at = now + self.hello_wait;
        self.hello_wait = (self.hello_wait * 2).min(LONGEST_WAIT);
        true
    }

    pub fn next_hello(&self) -> u64 {
        self.hello_at
    }

    /// Something came that is of no session we know: the other end, restarted or not, is there.
    pub fn hurry(&mut self, now: u64) {
        self.hello_wait = FIRST_WAIT;
        self.hello_at = self.hello_at.min(now + FIRST_WAIT);
    }

    /// Our end of a new session, and the nonce of theirs as far as it is known.
    pub fn parties(&mut self, id: u64, fresh: &mut dyn FnMut() -> Nonce) -> (Party, Nonce) {
        let nonce = *self.pending.get_or_insert_with(fresh);
        let echo = self.tentative.as_ref().map(|(_, hello)| hello.from.nonce);
        (Party { id, nonce }, echo.unwrap_or_default())
    }

    /// Takes a genuine hello, which may be an old one that somebody repeats. Tells with which nonces to
    /// answer, if at all, and whether a session has begun.
    pub fn hear_hello(
        &mut self,
        hello: &Hello,
        id: u64,
        keys: &Keys,
        now: u64,
        fresh: &mut dyn FnMut() -> Nonce,
    ) -> (Option<(Party, Nonce)>, bool) {
        let may_answer = self.answered_at.is_none_or(|at| now >= at + ANSWER);
        let session = self.session.as_ref();
        if let Some(session) = session.filter(|session| session.them == hello.from) {
            // It has not heard our answer yet, unless this is an old one.
            let answer = (session.us, session.them.nonce);
            let is_needed = may_answer && !self.is_confirmed;
            if is_needed {
                self.answered_at = Some(now);
            }
            return (is_needed.then_some(answer), false);
        }
        let is_live = self.is_confirmed && now - self.heard_at <= SILENCE;
        if is_live && self.id == hello.from.id && self.pending != Some(hello.echo) {
            // It is in a session with us, and has been answered an old hello of ours.
            return (None, false);
        }
        let has_heard = self.tentative.as_ref().map(|(_, hello)| hello.from.nonce);
        let nonce = *self.pending.get_or_insert_with(fresh);
        let us = Party { id, nonce };
        let session = Session::new(keys, us, hello.from);
        let begins = hello.echo == nonce;
        // One that has our nonce needs no answer if it has been told that we have its own.
        let is_needed = may_answer && !(begins && has_heard == Some(hello.from.nonce));
        if begins {
            self.begin(session, hello, now);
        } else {
            self.tentative = Some((session, *hello));
        }
        if is_needed {
            self.answered_at = Some(now);
        }
        (is_needed.then_some((us, hello.from.nonce)), begins)
    }

    fn begin(&mut self, session: Session, hello: &Hello, now: u64) {
        if self.id != session.them.id || self.next_batch == 0 {
            self.id = session.them.id;
            self.next_batch = hello.next_batch;
            self.missing.clear();
            self.samples = Samples::default();
        }
        self.own_at = None;
        self.other_timeout = None;
        self.cookie = None;
        self.agrees = None;
        self.session = Some(session);
        self.tentative = None;
        self.pending = None;
        self.is_confirmed = false;
        self.heard_at = now;
        self.hello_wait = FIRST_WAIT;
    }

    /// Whether a packet of this session is for this link.
    pub fn has_session(&self, tag: u32) -> bool {
        let is = |session: &Session| session.tag == tag;
        self.session.as_ref().is_some_and(is)
            || self
                .tentative
                .as_ref()
                .is_some_and(|(session, _)| is(session))
    }

    /// Opens a packet; tells whether a session has begun with it.
    pub fn open<'a>(
        &mut self,
        packet: &'a [u8],
        tag: u32,
        now: u64,
    ) -> Result<(super::wire::Kind, &'a [u8], bool), Rejection> {
        if let Some(session) = self.session.as_mut().filter(|session| session.tag == tag) {
            let (kind, body) = session.open(packet)?;
            self.is_confirmed = true;
            self.heard_at = now;
            return Ok((kind, body, false));
        }
        let Some((mut session, hello)) = self.tentative.take() else {
            return Err(Rejection::Stale);
        };
        match session.open(packet) {
            Ok((kind, body)) => {
                self.begin(session, &hello, now);
                self.is_confirmed = true;
                Ok((kind, body, true))
            }
            Err(why) => {
                self.tentative = Some((session, hello));
                Err(why)
            }
        }
    }

    /// The clocks for a packet to this node.
    pub fn pulse(&self, now: u64, time: &super::clock::Time) -> Pulse {
        let (echo, held) = match self.cookie {
            Some((cookie, at)) => (cookie, u32::try_from(now - at).unwrap_or(u32::MAX)),
            None => (0, 0),
        };
        Pulse {
            time: time.cluster(),
            set: time.set,
            sure_for: time.sure_for(),
            // Never 0, which is none.
            cookie: now + 1,
            echo,
            held,
        }
    }

    pub fn hear_pulse(&mut self, pulse: &Pulse, now: u64, cluster: u64) {
        self.cookie = Some((pulse.cookie, now));
        self.sure_for = pulse.sure_for;
        if pulse.echo == 0 {
            return;
        }
        let away = (now + 1).saturating_sub(pulse.echo);
        let trip = away.saturating_sub(pulse.held.into());
        let theirs = pulse.time.wrapping_add(trip / 2);
        self.samples
            .add(pulse.set, trip, theirs.wrapping_sub(cluster) as i64);
    }

    /// Whether its stamps mean the same as ours, as far as is known: one of us may have yet to be given the
    /// cluster's time.
    pub fn shares_time(&self) -> bool {
        let ahead = self.samples.best();
        ahead.is_some_and(|ahead| ahead.unsigned_abs() <= APART)
    }

    /// Batch `number` has come. Those before it that have not are missing.
    pub fn note_batch(&mut self, number: u64, now: u64) {
        match number.checked_sub(self.next_batch) {
            None => self.missing.retain(|missing| missing.batch != number),
            Some(_) => {
                self.expect(number, now);
                self.next_batch = number.saturating_add(1);
            }
        }
    }

    /// All batches below this one have been sent.
    pub fn expect(&mut self, next: u64, now: u64) {
        let skipped = next.saturating_sub(self.next_batch);
        if skipped == 0 {
            return;
        }
        self.counters.gaps = self.counters.gaps.saturating_add(skipped);
        let first = self
            .next_batch
            .max(next.saturating_sub(MOST_MISSING as u64));
        let given_up = first - self.next_batch;
        self.counters.lost = self.counters.lost.saturating_add(given_up);
        for batch in first..next {
            if self.missing.len() >= MOST_MISSING {
                self.counters.lost += 1;
                continue;
            }
            self.missing.push(Missing {
                batch,
                at: now + REORDERED,
                tries: 0,
            });
        }
        self.next_batch = next;
    }

    /// Batches to ask for now.
    pub fn wanted(&mut self, now: u64, wanted: &mut Vec<u64>) {
        let before = self.missing.len();
        self.missing.retain_mut(|missing| {
            if missing.at <= now {
                missing.tries += 1;
                missing.at = now + RETRY;
                if missing.tries <= TRIES {
                    wanted.push(missing.batch);
                }
            }
            missing.tries <= TRIES
        });
        self.counters.lost += (before - self.missing.len()) as u64;
    }

    /// When [`Link::wanted`] has something to say.
    pub fn next_wanted(&self) -> Option<u64> {
        self.missing.iter().map(|missing| missing.at).min()
    }

    /// Grants repair a tenth of the traffic since the last time, or what it may have anyway.
    pub fn refill(&mut self, now: u64) {
        let passed = now - self.refilled_at;
        let sent = self.counters.bytes_out - self.refilled_bytes;
        self.refilled_at = now;
        self.refilled_bytes = self.counters.bytes_out;
        let granted = (REPAIR_RATE * passed / 1000).max(sent / 10);
        self.allowance = (self.allowance + granted).min(REPAIR_BURST);
    }
}
