//! The work beside serving, in bounded steps: signals, the helper, FIFOs, the sweep, saves, the cluster, the history
//! and the counts in the log.

use super::cluster::Cluster;
use super::{Crew, Manager, Pace, Reload, Round, reload};
use crate::access::{Access, Fifo};
use crate::base::log::{self, Level};
use crate::base::text::counted;
use crate::helper::{self, Answer, Helper};
use crate::responder::Responder;
use crate::state::Saves;
use crate::stats;
use crate::sys::memory;
use crate::sys::signals::{self, Signal};
use crate::tracker::{Progress, Sweeper};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};

/// Records that the sweep visits between two rounds of requests. They take well below a millisecond, even if none of
/// them is in the cache. A quarter of this would not shorten the wait of a UDP connect while ten million torrents
/// expire: its p99 was 1.5 ms against 1.4, on a machine where it is 1.1 to 1.6 without a sweep.
const SWEEP_BUDGET: usize = 4096;

/// Milliseconds between two log lines of counts.
const REPORT_MS: u64 = 60_000;

const SIGNALS: Token = Token(0);
const HELPER: Token = Token(1);
const FIFOS: [Token; 2] = [Token(2), Token(3)];
const OUTSIDE: Token = Token(4);
/// All tokens below are of chores; 6 and 7 are the cluster's.
const TOKENS: usize = 8;

pub struct Chores {
    signals: UnixStream,
    pub(super) manager: Manager,
    /// None if no option needs it.
    pub helper: Option<Helper>,
    /// With a root directory: the one for configuration files, which are outside.
    pub outside: Option<Helper>,
    pub access: Option<Access>,
    /// With `--config`.
    pub reload: Option<Reload>,
    /// The FIFOs that change the list.
    pub fifos: Vec<Fifo>,
    /// With `--state`.
    pub saves: Option<Saves>,
    pub cluster: Cluster,
    /// The interval that all threads tell clients.
    pub pace: Pace,
    sweeper: Sweeper,
    is_sweeping: bool,
    /// The largest size of the table since memory was returned to the system.
    most_bytes: usize,
    /// In the last turn both a save and a sweep were under way, and the save had the turn.
    has_saved: bool,
    report_at: Option<u64>,
    /// The time since which requests wait, while the table's clock is held.
    held_since: Option<u64>,
    is_to_stop: bool,
    has_wound_up: bool,
}

impl Chores {
    pub fn new(signals: UnixStream, manager: Manager) -> Chores {
        Chores {
            signals,
            manager,
            helper: None,
            outside: None,
            access: None,
            reload: None,
            fifos: Vec::new(),
            saves: None,
            cluster: Cluster::default(),
            pace: Pace::default(),
            sweeper: Sweeper::default(),
            is_sweeping: false,
            most_bytes: 0,
            has_saved: false,
            report_at: log::is_told(Level::Info).then_some(REPORT_MS),
            held_since: None,
            is_to_stop: false,
            has_wound_up: false,
        }
    }

    /// Whether a token is of a chore.
    pub(super) fn owns(token: Token) -> bool {
        token.0 < TOKENS || Cluster::owns(token)
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.signals, SIGNALS, Interest::READABLE)?;
        if let Some(helper) = &mut self.helper {
            helper.register(registry, HELPER)?;
        }
        if let Some(outside) = &mut self.outside {
            outside.register(registry, OUTSIDE)?;
        }
        self.cluster.register(registry)?;
        let mut fifos = self.fifos.iter().zip(FIFOS);
        fifos.try_for_each(|(fifo, token)| fifo.register(registry, token))
    }

    /// Whether there is something to do without waiting.
    pub(super) fn is_busy(&self) -> bool {
        let can_save = match (&self.saves, &self.helper) {
            (Some(saves), Some(helper)) => saves.can_go_on(helper),
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
            self.pace.next_step(),
            self.fifos.iter().filter_map(Fifo::next_report).min(),
            self.saves.as_ref().and_then(Saves::next_at),
            Some(responder.monitor.next_sample()),
            self.manager.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Does a bounded piece of a source's work.
    pub(super) fn turn(&mut self, token: Token, round: &mut Round) {
        match token {
            SIGNALS => self.take_signals(),
            HELPER | OUTSIDE => self.take_answer(token, round),
            _ if FIFOS.contains(&token) => self.change_list(token, round),
            _ => self.cluster.turn(token, round),
        }
    }

    /// Does the work that is due by time and not by events.
    pub(super) fn step(&mut self, round: &mut Round) {
        let now = round.now();
        if !round.responder.is_held() {
            self.cluster.step(round);
        }
        if let (Some(access), Some(helper)) = (&mut self.access, &mut self.helper) {
            if access.step(helper) {
                self.cluster.list_changed();
            }
        }
        self.fifos.iter_mut().for_each(|fifo| fifo.report(now));
        self.save_or_sweep(round);
        self.log_hold(round.responder);
        self.set_interval(round);
        if let Some(sample) = round.responder.record_history() {
            self.manager.send_status(&sample);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = Some(now + REPORT_MS);
            for counts in stats::log_lines(&round.responder.view()) {
                log::info(format_args!("{counts}"));
            }
        }
    }

    /// Tells the service manager of the end of a reload, and of turns of the threads.
    pub(super) fn step_manager(&mut self, now: u64, crew: Option<&Crew>) {
        let mut helpers = self.helper.iter().chain(&self.outside);
        let is_reloading = helpers.any(Helper::is_reading_config)
            || self.access.as_ref().is_some_and(Access::is_reloading);
        self.manager.step(is_reloading, now, crew);
    }

    /// Follows the rate of announces.
    fn set_interval(&mut self, round: &mut Round) {
        let (now, responder) = (round.now(), &*round.responder);
        if self.pace.next_step().is_some_and(|at| at <= now) {
            let counters = responder.board.sum(&responder.counters);
            let announces = counters.udp_announces.wrapping_add(counters.http_announces);
            self.pace.advance(now, announces);
        }
        if self.pace.interval() != responder.interval() {
            round.live.set_interval(self.pace.interval());
        }
    }

    /// Does a slice of a save and of a sweep. While both are under way they alternate, so that no shard is locked twice
    /// in one turn.
    fn save_or_sweep(&mut self, round: &mut Round) {
        // Again, as the cluster may have moved the clock on.
        let is_held = round.responder.is_held();
        let is_saving = self.saves.as_ref().is_some_and(|saves| !saves.is_idle());
        let alternate = self.is_sweeping && is_saving && !is_held;
        let skips_save = is_held || (alternate && self.has_saved);
        if !skips_save {
            self.save_on(round);
        }
        self.has_saved = alternate && !skips_save;
        if !self.has_saved {
            self.sweep_on(round.responder);
        }
    }

    fn sweep_on(&mut self, responder: &Responder) {
        let (table, now) = (&responder.table, responder.table_now());
        let progress =
            responder.with_tracked(|tracked| self.sweeper.step(table, now, SWEEP_BUDGET, tracked));
        self.is_sweeping = progress == Progress::Underway || responder.is_held();
        if progress == Progress::Finished {
            let survey = table.survey(now);
            let torrents = counted(survey.totals.torrents as u64, "torrent");
            log::debug(format_args!("sweep: finished: {torrents} left"));
            self.return_memory(survey.bytes.iter().sum());
        }
    }

    /// Returns memory to the system when the table has shrunk by an eighth. For each million torrents that have gone
    /// this takes 14 ms, most of it the system's.
    fn return_memory(&mut self, bytes: usize) {
        let has_shrunk = bytes < self.most_bytes - self.most_bytes / 8;
        if has_shrunk {
            memory::return_free();
        }
        self.most_bytes = if has_shrunk {
            bytes
        } else {
            bytes.max(self.most_bytes)
        };
    }

    /// Logs the beginning and the end of a hold that takes more than one slice of the sweep.
    fn log_hold(&mut self, responder: &Responder) {
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

    /// Passes an answer of a helper to the reload or the save that waits for it.
    fn take_answer(&mut self, token: Token, round: &mut Round) {
        let helper = match token {
            OUTSIDE => &mut self.outside,
            _ => &mut self.helper,
        };
        let Some(answer) = helper.as_mut().and_then(Helper::turn) else {
            return;
        };
        round.note_busy(token);
        let now = round.now();
        match (answer, &mut self.access, &mut self.saves) {
            (Answer::List { count, skipped }, Some(access), _) => access.begin(count, skipped),
            (Answer::Hashes(hashes), Some(access), _) => access.take(&hashes),
            (Answer::ListFailed(why), Some(access), _) => access.fail(&why),
            (Answer::Saved, _, Some(saves)) => saves.saved(now),
            (Answer::SaveFailed(why), _, Some(saves)) => saves.failed(&why, now),
            (Answer::Config(texts), ..) => self.configure(texts, round),
            (Answer::Restarted, ..) if token == HELPER => self.repeat(),
            (Answer::Ended, ..) => self.give_up(token, now),
            _ => {}
        }
    }

    /// Repeats what the helper had not done when it ended. It repeats reads of configuration files itself.
    fn repeat(&mut self) {
        if let Some(saves) = &mut self.saves {
            saves.repeat();
        }
        if let (Some(access), Some(helper)) = (&mut self.access, &mut self.helper) {
            access.repeat(helper);
        }
    }

    /// A helper has not done what was requested, and will not do it.
    fn give_up(&mut self, token: Token, now: u64) {
        let why = helper::ENDED;
        let helper = if token == HELPER {
            self.access.iter_mut().for_each(|access| access.fail(why));
            self.saves
                .iter_mut()
                .for_each(|saves| saves.failed(why, now));
            &mut self.helper
        } else {
            &mut self.outside
        };
        if helper.as_mut().is_some_and(Helper::give_up_config) {
            reload::fail(why);
        }
    }

    /// Applies a bounded piece of the content of a FIFO.
    fn change_list(&mut self, token: Token, round: &mut Round) {
        let mut fifos = self.fifos.iter_mut().zip(FIFOS);
        let fifo = fifos.find_map(|(fifo, of)| (of == token).then_some(fifo));
        let (Some(fifo), Some(access)) = (fifo, &mut self.access) else {
            return;
        };
        if let Some(hashes) = fifo.turn() {
            access.change(fifo.flag, &hashes, fifo.adds);
            self.cluster.list_changed();
            round.note_busy(token);
        }
    }

    fn take_signals(&mut self) {
        while matches!(self.signals.read(&mut [0; 64]), Ok(1..)) {}
        for signal in signals::take() {
            match (signal, &mut self.saves) {
                (Signal::Stop, _) => {
                    self.is_to_stop = true;
                    self.manager.begin_stop();
                }
                (Signal::Reload, _) => self.reload(),
                (Signal::Save, Some(saves)) => saves.request(),
                (Signal::Save, None) => {
                    log::line(format_args!("SIGUSR1: ignored: no --state given"));
                }
            }
        }
    }

    fn reload(&mut self) {
        self.manager.begin_reload();
        let names = self.cluster.resolve_again();
        if let Some(reload) = &mut self.reload {
            reload.request(self.outside.as_mut().or(self.helper.as_mut()));
        }
        match (&mut self.access, &mut self.helper) {
            (Some(access), Some(helper)) => access.reload(helper),
            _ if names > 0 || self.reload.is_some() => {}
            _ => log::line(format_args!("SIGHUP: ignored: nothing to reload")),
        }
    }

    /// Applies configuration files that have been read again.
    fn configure(&mut self, texts: Result<Vec<Vec<u8>>, String>, round: &mut Round) {
        if let Some(reload) = &mut self.reload {
            reload.take(texts, &mut self.pace, round);
            let next = self.report_at.unwrap_or(round.now() + REPORT_MS);
            self.report_at = log::is_told(Level::Info).then_some(next);
        }
    }

    /// Begins the save that is due, or does a slice of the one that runs.
    fn save_on(&mut self, round: &mut Round) {
        if let (Some(saves), Some(helper)) = (&mut self.saves, &mut self.helper) {
            let now = (round.now(), round.responder.table_now());
            saves.step(&round.responder.table, helper, now);
        }
    }

    /// Whether a signal has requested the end of the daemon.
    pub(super) fn is_to_stop(&self) -> bool {
        self.is_to_stop
    }

    /// Saves the state, and sends other nodes what they lack. No request is answered any more.
    pub(super) fn wind_up(&mut self, responder: &Responder) {
        if !std::mem::replace(&mut self.has_wound_up, true) {
            if let Some(saves) = &mut self.saves {
                saves.wind_up(responder.monitor.now);
            }
            self.cluster.wind_up(responder);
        }
    }

    /// Whether all that is left to do at the end is done.
    pub(super) fn are_over(&self, now: u64) -> bool {
        self.has_wound_up
            && self.cluster.is_over(now)
            && self.saves.as_ref().is_none_or(Saves::is_idle)
    }

    /// Whether the state is saved, or need not be. Logs what is lost otherwise.
    pub(super) fn is_saved(&self, responder: &Responder) -> bool {
        let unsaved = self.saves.as_ref().filter(|saves| !saves.is_saved());
        if let Some(saves) = unsaved {
            saves.log_loss(&responder.table, responder.table_now());
        }
        unsaved.is_none()
    }
}
