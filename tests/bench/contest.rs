//! Servers taking turns under the same load.
//!
//! A ratio of two servers is measured in pairs: both are up and filled, and each in turn gets the load for a second
//! while the other sleeps. Slow changes (clock frequency, neighbours on the machine) are then in both halves of a
//! pair.
//!
//! A turn that measures a rate counts only if the server was busy on its core for 97 % of the time; otherwise the
//! load was too small, or another program took the core. Turns that do not count are played again, up to as many
//! again as were asked for. A turn that measures the cost of a request always counts: making a TCP connection takes
//! more of the side that begins it, so no generator on one core can fill a server's core with them.

use std::hint;
use std::io;
use std::time::{Duration, Instant};

use super::options::Options;
use super::report::{Goal, Report, Spread, grouped, megabytes};
use super::server::Server;

/// The share of a core that counts as all of it.
const FULL: f64 = 0.97;

/// The load before each measured turn, which brings back what the others drove from the caches.
const WARM_UP: Duration = Duration::from_millis(100);

/// What a load has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub replies: u64,
    /// Bytes of all replies, without headers of IP, UDP and TCP.
    pub bytes: u64,
    /// Requests without a reply.
    pub lost: u64,
    /// How long the generator had nothing to do.
    pub waited: Duration,
}

impl Tally {
    /// Lets time pass without giving the core away. Of sleeps of 20 µs one in a thousand takes milliseconds on a
    /// virtual machine, by which time the server has run out of requests.
    pub fn wait(&mut self, pause: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < pause {
            hint::spin_loop();
        }
        self.waited += pause;
    }
}

/// Something that keeps a server busy. A reply that is an error ends the case.
pub trait Load {
    fn run(&mut self, deadline: Instant) -> io::Result<()>;
    /// Leaves nothing in flight.
    fn settle(&mut self) -> io::Result<()>;
    fn tally(&self) -> Tally;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Requests a second of processor time: where the core is full, as good as a second of time, and not moved by
    /// what other programs took of it.
    Rate,
    /// Processor time a request.
    Cost,
}

/// What one turn showed; times in seconds.
#[derive(Clone, Copy, Debug)]
struct Turn {
    requests: f64,
    wall: f64,
    server: f64,
    waited: f64,
}

pub struct Contestant<'a> {
    pub server: Server,
    pub load: Box<dyn Load + 'a>,
    pub goal: Goal,
    /// How many cores it would fill if it had them; the load fills one.
    pub cores: u32,
}

/// Lets the contestants take turns, and reports each against the first one.
pub fn run(
    what: &str,
    measure: Measure,
    mut contestants: Vec<Contestant>,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    let count = contestants.len();
    let mut turns = vec![Vec::new(); count];
    for round in 0..options.pairs * 2 {
        // Each goes first in turn, so that none is always after the same other.
        for place in 0..count {
            let index = (round + place) % count;
            turns[index].push(contestants[index].play(options.seconds)?);
        }
        let is_enough =
            |own: &Vec<Turn>| counted(&[&turns[0], own], measure).len() >= options.pairs;
        if turns.iter().all(is_enough) {
            break;
        }
    }
    for (contestant, own) in contestants.iter().zip(&turns) {
        let mut rounds = counted(&[&turns[0], own], measure);
        let has_enough = rounds.len() >= options.pairs;
        let goal = match has_enough {
            true => contestant.goal,
            false => Goal::None,
        };
        // Where too few turns count, all are shown, with a warning.
        if !has_enough {
            rounds = (0..own.len()).collect();
        }
        let ratios = rounds.iter().map(|&i| match measure {
            Measure::Rate => own[i].rate() * f64::from(contestant.cores) / turns[0][i].rate(),
            Measure::Cost => turns[0][i].rate() / own[i].rate(),
        });
        let ratio = Spread::of(ratios);
        let text = format!("{ratio:.3}, {} pairs", rounds.len());
        let mut remark = contestant.remark(&rounds.iter().map(|&i| own[i]).collect::<Vec<_>>());
        if !has_enough {
            remark = format!("core not full: not counted; {remark}");
        }
        let name = &contestant.server.name;
        report.row(what, name, (ratio.median, text), goal, &remark);
    }
    Ok(())
}

/// The rounds whose turns count for both.
fn counted(both: &[&Vec<Turn>; 2], measure: Measure) -> Vec<usize> {
    let counts = |turn: &Turn| measure == Measure::Cost || turn.server / turn.wall >= FULL;
    let rounds = 0..both[0].len().min(both[1].len());
    rounds
        .filter(|&i| both.iter().all(|turns| counts(&turns[i])))
        .collect()
}

impl Turn {
    fn rate(&self) -> f64 {
        self.requests.max(1.0) / self.server
    }
}

impl Contestant<'_> {
    fn play(&mut self, seconds: f64) -> io::Result<Turn> {
        self.load.run(Instant::now() + WARM_UP)?;
        let (before, server) = (self.load.tally(), self.server.processor_time()?);
        let begin = Instant::now();
        self.load.run(begin + Duration::from_secs_f64(seconds))?;
        let (wall, after) = (begin.elapsed(), self.load.tally());
        let turn = Turn {
            requests: (after.replies - before.replies) as f64,
            wall: wall.as_secs_f64(),
            server: (self.server.processor_time()? - server).as_secs_f64(),
            waited: (after.waited - before.waited).as_secs_f64(),
        };
        self.load.settle()?;
        Ok(turn)
    }

    /// Medians of some turns, and what the load has seen.
    fn remark(&self, turns: &[Turn]) -> String {
        let median = |value: fn(&Turn) -> f64| Spread::of(turns.iter().map(value)).median;
        let tally = self.load.tally();
        format!(
            "{}/s, {:.3} µs CPU a request; server core {:.0} %, generator waits {:.0} %; \
             {} bytes a reply, {:.1} % lost, RSS {}",
            grouped(median(|turn| turn.requests / turn.wall) as u64),
            median(|turn| 1e6 / turn.rate()),
            median(|turn| 100.0 * turn.server / turn.wall),
            median(|turn| 100.0 * turn.waited / turn.wall),
            tally.bytes / tally.replies.max(1),
            tally.lost as f64 * 100.0 / (tally.lost + tally.replies).max(1) as f64,
            megabytes(self.server.resident())
        )
    }
}
