//! SIGHUP reads configuration files again. Options that may change while the tracker runs apply at once; the log names
//! the others, which need a restart. A file with an error changes nothing.
//!
//! Threads find new settings in [`Live`]. Each compares a number once a turn, so that no request takes a lock.

use super::{Pace, Round, Rule, Serving};
use crate::base::lock::lock;
use crate::base::log;
use crate::helper::{self, Helper};
use crate::http::{Policy, SharedLimits};
use crate::options::{Options, Source};
use crate::responder::Responder;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The settings of a thread that serves.
#[derive(Clone)]
pub struct Settings {
    interval: u32,
    max_numwant: usize,
    policy: Arc<Policy>,
}

impl Settings {
    pub fn new(options: &Options, interval: u32, policy: Arc<Policy>) -> Settings {
        Settings {
            interval,
            max_numwant: options.numwant_max as usize,
            policy,
        }
    }

    pub(super) fn apply(self, responder: &mut Responder, serving: Option<&mut Serving>) {
        responder.set_replies(self.interval, self.max_numwant);
        if let Some(serving) = serving {
            serving.set_policy(self.policy);
        }
    }
}

/// The settings of all threads.
pub struct Live {
    /// The number of reloads that changed the settings.
    generation: AtomicUsize,
    settings: Mutex<Settings>,
}

impl Live {
    pub fn new(settings: Settings) -> Live {
        Live {
            generation: AtomicUsize::new(0),
            settings: Mutex::new(settings),
        }
    }

    /// Sets the interval that all threads tell clients.
    pub(super) fn set_interval(&self, interval: u32) {
        self.change(|settings| settings.interval = interval);
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.settings));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The settings, if they have changed since this generation, which becomes theirs.
    pub(super) fn newer_than(&self, generation: &mut usize) -> Option<Settings> {
        let now = self.generation.load(Ordering::Acquire);
        if now == *generation {
            return None;
        }
        *generation = now;
        Some(lock(&self.settings).clone())
    }
}

/// Of a tracker with configuration files.
pub struct Reload {
    pub source: Source,
    /// Options that need a restart are compared with these.
    pub start: Options,
    /// The options in effect.
    pub current: Options,
    pub limits: Arc<SharedLimits>,
    /// Connections for which there are descriptors.
    pub available_connections: usize,
}

impl Reload {
    /// Requests the texts of the files.
    pub fn request(&mut self, helper: Option<&mut Helper>) {
        let requested = helper.ok_or(helper::ENDED).and_then(Helper::read_config);
        requested.unwrap_or_else(fail);
    }

    /// Applies the texts of the files, or logs why there are none.
    pub(super) fn take(
        &mut self,
        texts: Result<Vec<Vec<u8>>, String>,
        pace: &mut Pace,
        round: &mut Round,
    ) {
        let parsed = texts.and_then(|texts| self.source.parse_again(texts));
        let checked = parsed.and_then(|options| {
            options.check_interval(self.start.peer_timeout())?;
            Ok(options)
        });
        match checked {
            Ok(options) => self.apply(options, pace, round),
            Err(why) => fail(&why),
        }
    }

    fn apply(&mut self, mut new: Options, pace: &mut Pace, round: &mut Round) {
        let changed = self.current.changes(&mut new, true);
        let stale = self.start.changes(&mut new, false);
        let before = self.current.connections();
        let bounds_before = self.current.bounds();
        self.current = self.start.reloaded(&mut new);
        let options = &self.current;
        log::set_verbosity(options.verbosity);
        let max = max_connections(options, self.available_connections);
        self.limits.set_max_connections(max);
        let bounds = options.bounds();
        let responder = &mut round.responder;
        if options.connections() != before {
            log_connections(options, max, responder.monitor.max_descriptors);
        }
        responder
            .table
            .set_bounds(bounds.peers, bounds.torrents, responder.table_now());
        if bounds != bounds_before {
            log::line(format_args!("table: {bounds}"));
        }
        let (table, now) = (&responder.table, responder.table_now());
        table.set_interval(options.interval, now);
        pace.set_rule(Rule::of(options));
        if !changed.is_empty() {
            round.live.change(|settings| {
                let policy = Arc::new(settings.policy.with(options));
                *settings = Settings::new(options, pace.interval(), policy);
            });
        }
        if !stale.is_empty() {
            let stale = stale.join(", ");
            log::line(format_args!(
                "configuration: restart required: changed {stale}"
            ));
        }
        let changed = match changed.is_empty() {
            true => "no change to apply".to_owned(),
            false => format!("changed {}", changed.join(", ")),
        };
        log::line(format_args!("configuration: reloaded: {changed}"));
    }
}

/// `--max-connections`, as far as there are descriptors.
pub fn max_connections(options: &Options, available: usize) -> usize {
    available.clamp(1, options.connections())
}

pub fn log_connections(options: &Options, max: usize, descriptors: u64) {
    if max < options.connections() {
        log::line(format_args!(
            "at most {max} connections: the limit of open descriptors is {descriptors}"
        ));
    } else if let Some(limit) = options.fewer_connections_by() {
        log::line(format_args!(
            "at most {max} connections: one for each 64 KiB of {limit}"
        ));
    }
}

pub(super) fn fail(why: &str) {
    log::error(format_args!(
        "configuration: reload failed: {why}; nothing is changed"
    ));
}
