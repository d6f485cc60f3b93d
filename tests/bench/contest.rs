//! Servers taking turns under the same load.
//!
//! A ratio of two servers is measured in pairs: both are up and filled, and each in turn gets the load for a second
//! while the other sleeps. Slow changes (clock frequency, neighbours on the machine) are then in both halves of a
//! pair.
//!
//! A turn that measures a rate counts only if the server was busy on its core for 97 % of the time; otherwise the
//! load was too small, or another program took the core. Turns that do not count are repeated, up to as many times as
//! turns were requested. A turn that measures the cost of a request always counts: making a TCP connection takes
//! more of the side that begins it, so no generator on one core can fill a server's core with them.

use std::hint;
use std::io;
use std::time::{Duration, Instant};

use super::options::Bench;
use super::report::{Goal, Spread, grouped, megabytes};
use super::server::Server;

/// The share of a core that counts as all of it.
const FULL: f64 = 0.97;

/// The load before each measured turn, which fills the caches again.
const WARM_UP: Duration = Duration::from_millis(100);

/// The counts of a load since its start.
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
    /// Requests a second of processor time: where the core is full, as good as a second of time, and independent of
    /// the share that other programs took.
    Rate,
    /// Processor time a request.
    Cost,
}

/// The measurements of a turn; times in seconds.
#[derive(Clone, Copy, Debug)]
struct Turn {
    requests: f64,
    wall: f64,
    server: f64,
    /// Of that, in the program itself and not in the kernel.
    user: f64,
    waited: f64,
}

pub struct Contestant<'a> {
    pub server: &'a Server,
    pub load: Box<dyn Load + 'a>,
    pub goal: Goal,
    /// How many cores it would fill if it had them; the load fills one.
    pub cores: u32,
}

/// Lets the contestants take turns, and reports each against the first one.
pub fn run(
    bench: &Bench,
    subject: &str,
    measure: Measure,
    mut contestants: Vec<Contestant>,
) -> io::Result<()> {
    let count = contestants.len();
    let mut turns = vec![Vec::new(); count];
    for round in 0..bench.pairs * 2 {
        // Each goes first in turn, so that none is always after the same other.
        for place in 0..count {
            let index = (round + place) % count;
            turns[index].push(contestants[index].play(bench.seconds)?);
        }
        if (turns.iter()).all(|own| counted(&turns[0], own, measure).len() >= bench.pairs) {
            break;
        }
    }
    for (contestant, own) in contestants.iter().zip(&turns) {
        let mut pairs = counted(&turns[0], own, measure);
        let (mut goal, mut warning) = (contestant.goal, "");
        if pairs.len() < bench.pairs {
            pairs = turns[0].iter().zip(own).collect();
            (goal, warning) = (Goal::None, "core not full: not counted; ");
        }
        let ratios = pairs.iter().map(|(first, own)| match measure {
            Measure::Rate => own.rate() * f64::from(contestant.cores) / first.rate(),
            Measure::Cost => first.rate() / own.rate(),
        });
        let ratio = Spread::of(ratios);
        let text = format!("{ratio}, {} pairs", pairs.len());
        let remark = warning.to_string() + &contestant.remark(&pairs);
        let server = &contestant.server.name;
        bench.row(subject, server, (ratio.median, text), goal, &remark);
    }
    compare_user_time(bench, subject, &contestants, &turns);
    Ok(())
}

/// The program's own processor time a request of the first build, of that of each other build. It is counted in ticks
/// of 10 ms, so it is that of all turns.
fn compare_user_time(
    bench: &Bench,
    subject: &str,
    contestants: &[Contestant],
    turns: &[Vec<Turn>],
) {
    let user = |name: &str| {
        let at = contestants.iter().position(|one| one.server.name == name)?;
        let sum = |value: fn(&Turn) -> f64| turns[at].iter().map(value).sum::<f64>();
        Some(1e6 * sum(|turn| turn.user) / sum(|turn| turn.requests))
    };
    let mut builds = bench.builds.iter();
    let Some(own) = builds.next().and_then(|build| user(&build.name)) else {
        return;
    };
    let subject = format!("user CPU, {subject}");
    for build in builds {
        let Some(other) = user(&build.name) else {
            continue;
        };
        let (ratio, remark) = (own / other, format!("{own:.3} and {other:.3} µs"));
        let server = format!("{} of {}", bench.builds[0].name, build.name);
        let figure = (ratio, format!("{ratio:.3}"));
        bench.row(&subject, &server, figure, Goal::AtMost(0.5), &remark);
    }
}

/// The pairs of turns that both count.
fn counted<'a>(first: &'a [Turn], own: &'a [Turn], measure: Measure) -> Vec<(&'a Turn, &'a Turn)> {
    let counts = |turn: &Turn| measure == Measure::Cost || turn.server / turn.wall >= FULL;
    let pairs = first.iter().zip(own);
    pairs.filter(|(a, b)| counts(a) && counts(b)).collect()
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
        let user = self.server.user_time();
        let begin = Instant::now();
        self.load.run(begin + Duration::from_secs_f64(seconds))?;
        let (wall, after) = (begin.elapsed(), self.load.tally());
        let turn = Turn {
            requests: (after.replies - before.replies) as f64,
            wall: wall.as_secs_f64(),
            server: (self.server.processor_time()? - server).as_secs_f64(),
            user: self.server.user_time() - user,
            waited: (after.waited - before.waited).as_secs_f64(),
        };
        self.load.settle()?;
        Ok(turn)
    }

    /// Medians of its turns in some pairs, and the counts of the load.
    fn remark(&self, pairs: &[(&Turn, &Turn)]) -> String {
        let median =
            |value: fn(&Turn) -> f64| Spread::of(pairs.iter().map(|(_, own)| value(own))).median;
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
