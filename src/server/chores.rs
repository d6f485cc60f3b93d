//! The work that is not serving, in steps of bounded size: signals, the helper processes, FIFOs, the sweep, saves, the cluster,
//! the history and the log's counts.

use super::cluster::Cluster;
use super::{Busy, Round};
use crate::access::{Access, Fifo};
use crate::keeper::{Event, Keeper};
use crate::log::{self, Level};
use crate::responder::Responder;
use crate::state::{Saves, wall_ms};
use crate::stats;
use crate::sys::signals::{self, Signal};
use crate::tracker::{InfoHash, Progress, Sweeper};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};

/// Records that the sweep looks at between two rounds of requests: well below a millisecond, even
/// where none of them is in the cache. While ten million torrents expire, a UDP connect waits for no longer
/// with a quarter of it: p99 1.5 ms against 1.4, on a machine where it is 1.1 to 1.6 when idle.
const SWEEP_BUDGET: usize = 4096;

/// Milliseconds between two lines of counts.
const REPORT_MS: u64 = 60_000;

const SIGNALS: Token = Token(0);
const KEEPER: Token = Token(1);
const LIST_ADD: Token = Token(2);
const LIST_REMOVE: Token = Token(3);
/// Tokens below are of chores: 4 to 7 are the cluster's.
const TOKENS: usize = 8;

/// The FIFOs through which the list of info-hashes is changed.
#[derive(Default)]
pub struct Fifos {
    pub add: Option<Fifo>,
    pub remove: Option<Fifo>,
}

pub struct Chores {
    signals: UnixStream,
    /// If an option needs it.
    pub keeper: Option<Keeper>,
    pub access: Option<Access>,
    pub fifos: Fifos,
    /// If the state is to be saved, which the keeper does.
    pub saves: Option<Saves>,
    pub cluster: Cluster,
    sweeper: Sweeper,
    is_sweeping: bool,
    /// The last turn that a save and a sweep could both have had was the save's.
    has_saved: bool,
    report_at: Option<u64>,
    /// Set while requests wait because the table's clock is held: since when.
    held_since: Option<u64>,
    /// Other threads serve, so that there is something to record whether this loop wakes or not.
    pub has_crew: bool,
    is_to_stop: bool,
    has_wound_up: bool,
}

impl Fifos {
    /// When one of them has something to log.
    fn next_report(&self) -> Option<u64> {
        let fifos = [&self.add, &self.remove].into_iter().flatten();
        fifos.filter_map(Fifo::next_report).min()
    }

    fn report(&mut self, now: u64) {
        let fifos = [&mut self.add, &mut self.remove].into_iter().flatten();
        fifos.for_each(|fifo| fifo.report(now));
    }
}

impl Chores {
    pub fn new(signals: UnixStream) -> Chores {
        Chores {
            signals,
            keeper: None,
            access: None,
            fifos: Fifos::default(),
            saves: None,
            cluster: Cluster::default(),
            sweeper: Sweeper::default(),
            is_sweeping: false,
            has_saved: false,
            report_at: log::is_told(Level::Info).then_some(REPORT_MS),
            held_since: None,
            has_crew: false,
            is_to_stop: false,
            has_wound_up: false,
        }
    }

    /// Whether a token is of one of these.
    pub(super) fn owns(token: Token) -> bool {
        token.0 < TOKENS || Cluster::owns(token)
    }

    /// Has the poll watch all that it is to watch from the start.
    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)?;
        if let Some(keeper) = &mut self.keeper {
            keeper.register(registry, KEEPER)?;
        }
        self.cluster.register(registry)?;
        let fifos = [
            (&self.fifos.add, LIST_ADD),
            (&self.fifos.remove, LIST_REMOVE),
        ];
        for (fifo, token) in fifos {
            if let Some(fifo) = fifo {
                fifo.register(registry, token)?;
            }
        }
        Ok(())
    }

    /// Whether there is something to do without waiting.
    pub(super) fn is_busy(&self) -> bool {
        let can_save = match (&self.saves, &self.keeper) {
            (Some(saves), Some(keeper)) => saves.can_go_on(keeper),
            _ => false,
        };
        let is_reloading = self.access.as_ref().is_some_and(Access::is_busy);
        self.is_sweeping || is_reloading || can_save || self.cluster.is_busy()
    }

    /// When there is something to do without an event.
    pub(super) fn next_deadline(&self, responder: &Responder) -> Option<u64> {
        let deadlines = [
            responder.next_sweep(),
            self.cluster.next_deadline(),
            self.report_at,
            self.fifos.next_report(),
            self.saves.as_ref().and_then(Saves::next_at),
            self.has_crew.then(|| responder.monitor.next_sample()),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Lets a source do a bounded piece of what waits; of other nodes none while the table's clock is held.
    pub(super) fn turn(&mut self, token: Token, is_held: bool, round: &mut Round) {
        match token {
            SIGNALS => self.take_signals(),
            KEEPER => self.hear_keeper(round),
            LIST_ADD | LIST_REMOVE => self.change_list(token, round.busy),
            _ => self.cluster.turn(token, is_held, round),
        }
    }

    /// Does the work that is due with time and not with events.
    pub(super) fn step(&mut self, is_held: bool, round: &mut Round) {
        let now = round.now;
        if !is_held {
            self.cluster.step(round);
        }
        let is_other_list = match (&mut self.access, &mut self.keeper) {
            (Some(access), Some(keeper)) => access.step(keeper),
            _ => false,
        };
        if is_other_list {
            self.cluster.list_changed();
        }
        self.fifos.report(now);
        self.save_or_sweep(round);
        self.tell_of_hold(round.responder);
        round.responder.record_history();
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = Some(now + REPORT_MS);
            for counts in stats::log_lines(&round.responder.view()) {
                log::info(format_args!("{counts}"));
            }
        }
    }

    /// Goes on with a save and a sweep. While both are under way they take turns, so that no shard is taken twice in one.
    fn save_or_sweep(&mut self, round: &mut Round) {
        // The cluster may have set the clock on.
        let is_held = round.responder.is_held();
        let is_saving = self.saves.as_ref().is_some_and(|saves| !saves.is_idle());
        let are_both = self.is_sweeping && is_saving && !is_held;
        let is_turn_of_sweep = are_both && self.has_saved;
        self.has_saved = are_both && !is_turn_of_sweep;
        if !is_held && !is_turn_of_sweep {
            self.save_on(round);
        }
        if !self.has_saved {
            self.sweep_on(round.responder);
        }
    }

    fn sweep_on(&mut self, responder: &Responder) {
        let (table, now) = (&responder.table, responder.table_now());
        let progress = match &responder.rules {
            None => self.sweeper.step(table, now, SWEEP_BUDGET, None),
            Some(rules) => {
                let rules = rules.read();
                let is_tracked = |hash: &InfoHash| rules.refuses(hash).is_none();
                self.sweeper
                    .step(table, now, SWEEP_BUDGET, Some(&is_tracked))
            }
        };
        self.is_sweeping = progress == Progress::Underway || responder.is_held();
        if progress == Progress::Finished {
            let torrents = table.survey(now).totals.torrents;
            log::debug(format_args!("swept, {torrents} torrents left"));
        }
    }

    /// Logs the begin and the end of a hold that one slice of the sweep does not end.
    fn tell_of_hold(&mut self, responder: &Responder) {
        let now = responder.monitor.now;
        match (self.held_since, responder.is_held()) {
            (None, true) => {
                self.held_since = Some(now);
                log::line(format_args!(
                    "table: long pause: requests wait until expired peers are removed"
                ));
            }
            (Some(since), false) => {
                self.held_since = None;
                log::line(format_args!(
                    "table: expired peers removed: requests waited for {} ms",
                    now.saturating_sub(since)
                ));
            }
            _ => {}
        }
    }

    /// Passes what the keeper sends to the reload or the save that asked for it.
    fn hear_keeper(&mut self, round: &mut Round) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let now = round.now;
        let (access, saves) = (self.access.as_mut(), self.saves.as_mut());
        match (keeper.turn(), access, saves) {
            (Some(Event::Bytes(bytes)), Some(access), _) => access.take(&bytes, keeper),
            (Some(Event::End), Some(access), _) => access.end(),
            (Some(Event::ReadFailed(why)), Some(access), _) => access.fail(&why),
            (Some(Event::Saved), _, Some(saves)) => saves.saved(now),
            (Some(Event::SaveFailed(why)), _, Some(saves)) => saves.failed(&why, now),
            _ => {}
        }
        if keeper.is_busy() {
            round.busy.add(KEEPER);
        }
    }

    /// Takes a bounded piece of what was written to a FIFO.
    fn change_list(&mut self, token: Token, busy: &mut Busy) {
        let (flag, fifo) = match token {
            LIST_ADD => ("--list-add", &mut self.fifos.add),
            _ => ("--list-remove", &mut self.fifos.remove),
        };
        let Some(hashes) = fifo.as_mut().and_then(Fifo::turn) else {
            return;
        };
        if let Some(access) = &mut self.access {
            access.change(flag, &hashes, token == LIST_ADD);
            self.cluster.list_changed();
        }
        busy.add(token);
    }

    fn reload(&mut self) {
        let names = self.cluster.resolve_again();
        match (&mut self.access, &mut self.keeper) {
            (Some(access), Some(keeper)) => access.reload(keeper),
            _ if names > 0 => {}
            _ => log::line(format_args!("SIGHUP: there is nothing to reload")),
        }
    }

    fn take_signals(&mut self) {
        let mut bytes = [0; 64];
        loop {
            match self.signals.read(&mut bytes) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        for signal in signals::take() {
            match signal {
                Signal::Stop => self.is_to_stop = true,
                Signal::Reload => self.reload(),
                Signal::Save => self.save(),
            }
        }
    }

    fn save(&mut self) {
        match &mut self.saves {
            Some(saves) => saves.request(),
            None => log::line(format_args!("SIGUSR1: there is no --state to save")),
        }
    }

    /// Begins the save that is due, or does a slice of the one that runs.
    fn save_on(&mut self, round: &mut Round) {
        let (Some(saves), Some(keeper)) = (&mut self.saves, &mut self.keeper) else {
            return;
        };
        let (table, table_now) = (&round.responder.table, round.responder.table_now());
        if saves.is_due(round.now) {
            saves.begin(table, keeper, (round.now, table_now), wall_ms());
        } else {
            saves.step(table, keeper, table_now);
        }
        if keeper.is_busy() {
            round.busy.add(KEEPER);
        }
    }

    /// Whether a signal has come that ends the daemon.
    pub(super) fn is_to_stop(&self) -> bool {
        self.is_to_stop
    }

    /// Saves the state, and tells other nodes that this one ends. No request is answered any more.
    pub(super) fn wind_up(&mut self, responder: &Responder) {
        if !std::mem::replace(&mut self.has_wound_up, true) {
            if let Some(saves) = &mut self.saves {
                saves.request();
            }
            self.cluster.wind_up(responder);
        }
    }

    /// Whether what is left to do at the end is done.
    pub(super) fn are_over(&self, now: u64) -> bool {
        self.has_wound_up
            && self.cluster.is_over(now)
            && self.saves.as_ref().is_none_or(Saves::is_idle)
    }

    /// Whether the state is saved, if it was to be.
    pub(super) fn is_saved(&self) -> bool {
        self.saves.as_ref().is_none_or(Saves::is_saved)
    }
}
