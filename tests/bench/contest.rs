//! Servers taking turns under the same load.
//!
//! A ratio of two servers is measured in pairs: both are up and filled, and each in turn gets the
//! load for a second while the other sleeps. What changes slowly (clock frequency, neighbours on
//! the machine) is then in both halves of a pair.
//!
//! A turn that measures a rate counts only if the server was busy on its core for 97 % of the
//! time; otherwise the load was too small, or something else took the core. Turns that do not
//! count are played again, up to as many again as were asked for. A turn that measures the cost
//! of a request counts however busy the server was: making a TCP connection takes more of the
//! side that begins it, so no generator on one core can fill a server's with them. That it was
//! not full is told all the same.

use std::fmt;
use std::hint;
use std::io;
use std::time::{Duration, Instant};

use crate::options::Options;
use crate::report::{Figure, Goal, NOT_COUNTED, Report, Spread, grouped, megabytes};
use crate::server::{self, SERVER_CORE, Server};
use crate::sys;

/// The share of a core that counts as all of it.
const FULL: f64 = 0.97;

/// The load before each measured turn, which brings back what the others drove from the caches.
const WARM_UP: Duration = Duration::from_millis(100);

/// What a load did so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub replies: u64,
    /// Octets of all replies, without headers of IP, UDP and TCP.
    pub octets: u64,
    /// Requests without a reply.
    pub lost: u64,
    /// Replies that were not those of an announce.
    pub errors: u64,
    pub first_error: Option<String>,
    /// Connections that the server closed though they were to be kept.
    pub closed: u64,
    /// How long the generator had nothing to do.
    pub waited: Duration,
}

impl Tally {
    /// Lets time pass without giving the core away. Of sleeps of 20 µs one in a thousand takes
    /// milliseconds on a virtual machine, by which time the server has run out of requests.
    pub fn wait(&mut self, pause: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < pause {
            hint::spin_loop();
        }
        self.waited += pause;
    }
}

/// Something that keeps a server busy.
pub trait Load {
    /// Makes ready for a turn.
    fn begin(&mut self) -> io::Result<()>;
    fn run(&mut self, deadline: Instant) -> io::Result<()>;
    /// Leaves nothing in flight.
    fn end(&mut self) -> io::Result<()>;
    fn tally(&self) -> &Tally;
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Requests a second of processor time, which is as good as a second where the core is full,
    /// and is not moved by what other programs took of it.
    Rate,
    /// Processor time a request, whether the core is full or not.
    Cost,
    /// The same of turns in which the core is full.
    FullCost,
}

/// What one turn showed; times in seconds.
#[derive(Clone, Copy, Debug)]
struct Turn {
    requests: f64,
    wall: f64,
    server: f64,
    generator: f64,
    /// How long the server's core had nothing to do.
    idle: f64,
}

impl Turn {
    fn get(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Rate => self.requests / self.server,
            Measure::Cost | Measure::FullCost => self.server / self.requests.max(1.0),
        }
    }

    fn is_full(&self) -> bool {
        self.server / self.wall >= FULL
    }

    fn counts(&self, measure: Measure) -> bool {
        self.is_full() || measure == Measure::Cost
    }
}

pub struct Contestant<'a> {
    pub server: Server,
    pub goal: Goal,
    /// How many cores it would fill if it had them; the load fills one.
    cores: f64,
    load: Box<dyn Load + 'a>,
    turns: Vec<Turn>,
}

impl<'a> Contestant<'a> {
    pub fn new(server: Server, load: impl Load + 'a, goal: Goal) -> Contestant<'a> {
        Contestant {
            server,
            goal,
            cores: 1.0,
            load: Box::new(load),
            turns: Vec::new(),
        }
    }

    /// Counts what it would do on so many cores.
    pub fn on_cores(self, cores: f64) -> Contestant<'a> {
        Contestant { cores, ..self }
    }

    fn play(&mut self, length: Duration) -> io::Result<()> {
        self.load.begin()?;
        self.load.run(Instant::now() + WARM_UP)?;
        let before = self.load.tally().clone();
        let idle = server::idle_ticks(SERVER_CORE)?;
        let (generator, server) = (sys::own_processor_time(), self.server.processor_time()?);
        let begin = Instant::now();
        self.load.run(begin + length)?;
        let wall = begin.elapsed();
        let tally = self.load.tally();
        let waited = tally.waited - before.waited;
        self.turns.push(Turn {
            wall: wall.as_secs_f64(),
            server: (self.server.processor_time()? - server).as_secs_f64(),
            generator: (sys::own_processor_time() - generator)
                .saturating_sub(waited)
                .as_secs_f64(),
            idle: (server::idle_ticks(SERVER_CORE)? - idle) as f64 / 100.0,
            requests: (tally.replies - before.replies) as f64,
        });
        self.load.end()
    }

    fn summary(&self, rounds: &[usize]) -> Summary {
        let of = |value: fn(&Turn) -> f64| {
            let values = rounds.iter().map(|&round| value(&self.turns[round]));
            Spread::of(values).expect("at least one round").median
        };
        Summary {
            rate: of(|turn| turn.requests / turn.wall),
            cost: of(|turn| turn.get(Measure::Cost)),
            server: of(|turn| turn.server / turn.wall),
            generator: of(|turn| turn.generator / turn.wall),
            idle: of(|turn| turn.idle / turn.wall),
        }
    }

    /// What was wrong with the replies, if they are not to be counted.
    fn complaint(&self) -> Option<String> {
        let Tally {
            replies,
            errors,
            first_error,
            closed,
            ..
        } = self.load.tally();
        if *errors > 0 {
            let first = first_error.as_deref().unwrap_or("");
            return Some(format!(
                "{errors} of {replies} replies were errors, the first: {first:?}"
            ));
        }
        (*closed > 0).then(|| format!("{closed} connections closed, {replies} replies"))
    }
}

/// Medians of some turns.
struct Summary {
    rate: f64,
    cost: f64,
    server: f64,
    generator: f64,
    idle: f64,
}

impl Summary {
    /// What kept the server from using all of its core.
    fn limit(&self) -> &'static str {
        if self.idle > 1.0 - FULL {
            "generator-bound"
        } else {
            "core shared with others"
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{}/s, {:.3} µs CPU a request; server core {:.0} %, generator core {:.0} %",
            grouped(self.rate as u64),
            self.cost * 1e6,
            self.server * 100.0,
            self.generator * 100.0
        )
    }
}

/// The first contestant is the reference of the others.
pub struct Contest<'a> {
    pub what: String,
    pub measure: Measure,
    pub contestants: Vec<Contestant<'a>>,
}

impl Contest<'_> {
    pub fn run(&mut self, options: &Options, report: &mut Report) -> io::Result<()> {
        self.play(options)?;
        for index in 0..self.contestants.len() {
            self.tell(index, options, report)?;
        }
        Ok(())
    }

    fn play(&mut self, options: &Options) -> io::Result<()> {
        let length = Duration::from_secs_f64(options.seconds);
        let count = self.contestants.len();
        for round in 0..options.pairs * 2 {
            // Each goes first in turn, so that none is always after the same other.
            for place in 0..count {
                self.contestants[(round + place) % count].play(length)?;
            }
            if (0..count).all(|index| self.counted(index).len() >= options.pairs) {
                break;
            }
        }
        Ok(())
    }

    /// The rounds that count for a contestant and the reference alike.
    fn counted(&self, index: usize) -> Vec<usize> {
        let (reference, contestant) = (&self.contestants[0], &self.contestants[index]);
        let counts = |turn: &Turn| turn.counts(self.measure);
        let rounds = 0..contestant.turns.len();
        rounds
            .filter(|&i| counts(&reference.turns[i]) && counts(&contestant.turns[i]))
            .collect()
    }

    fn tell(&self, index: usize, options: &Options, report: &mut Report) -> io::Result<()> {
        let contestant = &self.contestants[index];
        let name = &contestant.server.name;
        let counted = self.counted(index);
        let enough = counted.len() >= options.pairs;
        // Where too few turns count, all are told, with a warning.
        let rounds = if enough {
            counted
        } else {
            (0..contestant.turns.len()).collect()
        };
        let summary = contestant.summary(&rounds);
        let tally = contestant.load.tally();
        let mut remark = format!(
            "{summary}; {} octets a reply, {:.1} % lost, RSS {}",
            tally.octets / tally.replies.max(1),
            tally.lost as f64 * 100.0 / (tally.lost + tally.replies).max(1) as f64,
            megabytes(contestant.server.resident()?)
        );
        if !enough {
            remark = format!("{}: {NOT_COUNTED}; {remark}", summary.limit());
        } else if summary.server < FULL {
            remark = format!("{}; {remark}", summary.limit());
        }
        if let Some(complaint) = contestant.complaint() {
            remark = format!("{complaint}: {NOT_COUNTED}; {remark}");
        }
        let figure = if index == 0 {
            Figure {
                value: 1.0,
                text: "the reference".to_string(),
            }
        } else {
            self.ratio(index, &rounds)
        };
        report.row(&self.what, name, &figure, contestant.goal, &remark);
        Ok(())
    }

    fn ratio(&self, index: usize, rounds: &[usize]) -> Figure {
        let (reference, contestant) = (&self.contestants[0], &self.contestants[index]);
        let ratio = Spread::of(rounds.iter().map(|&round| {
            let ratio = contestant.turns[round].get(self.measure)
                / reference.turns[round].get(self.measure);
            ratio * contestant.cores / reference.cores
        }))
        .expect("at least one round");
        let text = format!(
            "{ratio:.3} of {}, {} pairs",
            reference.server.name,
            rounds.len()
        );
        Figure {
            value: ratio.median,
            text,
        }
    }
}
