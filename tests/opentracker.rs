//! Side by side with opentracker: the same announces and scrapes go to both trackers, and the decoded replies are
//! compared.
//!
//! Clients expect opentracker's replies of many years, and where the BEPs are silent opentracker is the standard. So
//! every difference is either a bug or named here: [`DIFFERENCES`] are those in replies that both give, and the tables
//! of the tests called `..._differ` are those where one of them refuses. A difference that no longer occurs fails its
//! test too, so the list stays true.

mod common;

use announced::base::random::Random;
use common::bencode::Value::Dictionary;
use common::http::{self, Response};
use common::opentracker::{self, FIRST, OPENTRACKER, Opentracker};
use common::{Daemon, Directory, skip, udp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

/// The source of all HTTP: a TCP socket of the standard library cannot be bound before it connects.
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The interval in seconds of either tracker: half an hour, and opentracker's jitter of three minutes, the larger one.
const INTERVALS: std::ops::RangeInclusive<i64> = 1620..=1980;

type Hash = [u8; 20];

/// The torrents of the whitelist, by number; no other is announced.
fn torrent(number: u8) -> Hash {
    [number; 20]
}

/// A hash of all the marks that a query's value may hold unescaped.
const MARKS: Hash = *b"!'()*+,-./:;<=>?@_~A";

/// 20 bytes of 8-bit characters, and of marks that are invalid in a URL: some clients send both.
const EIGHT_BIT: &str = "éééééééééé";
const BRACKETS: &str = r#"[]{}|^`"\[]{}|^`"\[]"#;

/// opentracker sends the asker to itself.
const ASKER_LEFT_OUT: &str = "asker left out";
/// opentracker sends seeders to seeders, which have no use for each other.
const SEEDERS_LEFT_OUT: &str = "seeders left out";
/// BEP 24; not in the opentracker of 2021.
const EXTERNAL_IP: &str = "external ip";
/// opentracker's HTTP reply to `stopped` lacks `downloaded`.
const DOWNLOADED_ON_STOP: &str = "downloaded on stop";
/// opentracker leaves unknown torrents out of a scrape over HTTP.
const UNKNOWN_ARE_ZEROS: &str = "unknown torrents are zeros";

/// The deliberate differences of replies that both give, in order.
#[rustfmt::skip]
const DIFFERENCES: [&str; 5] =
    [ASKER_LEFT_OUT, DOWNLOADED_ON_STOP, EXTERNAL_IP, SEEDERS_LEFT_OUT, UNKNOWN_ARE_ZEROS];

fn escape(hash: &Hash) -> String {
    hash.map(|byte| format!("%{byte:02x}")).concat()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Udp,
    Http,
}
use Over::{Http, Udp};

/// As numbered by BEP 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    None,
    Completed,
    Started,
    Stopped,
}

/// One announce.
#[derive(Clone, Copy, Debug)]
struct Step {
    over: Over,
    torrent: Hash,
    peer: (Ipv4Addr, u16),
    left: u64,
    event: Event,
    num_want: i32,
}

impl Step {
    /// Of a leecher that starts and takes all peers that there are.
    fn new(over: Over, torrent: Hash, peer: (Ipv4Addr, u16)) -> Step {
        Step {
            over,
            torrent,
            peer,
            left: 1,
            event: Event::Started,
            num_want: 200,
        }
    }

    fn with(mut self, left: u64, event: Event) -> Step {
        (self.left, self.event) = (left, event);
        self
    }

    fn target(&self) -> String {
        let event = match self.event {
            Event::None => String::new(),
            event => format!("&event={event:?}").to_lowercase(),
        };
        let hash = escape(&self.torrent);
        format!(
            "/announce?info_hash={hash}&peer_id=-XX0001-abcdefghijkl&port={}&uploaded=0&downloaded=0\
             &left={}&compact=1&numwant={}{event}",
            self.peer.1, self.left, self.num_want
        )
    }

    fn datagram(&self) -> udp::Announce {
        udp::Announce {
            info_hash: self.torrent,
            left: self.left,
            event: self.event as u32,
            num_want: self.num_want,
            port: self.peer.1,
            ..Default::default()
        }
    }
}

/// The reply to an announce.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    seeders: i64,
    leechers: i64,
    /// None over UDP, and in some replies over HTTP.
    downloaded: Option<i64>,
    peers: BTreeSet<SocketAddr>,
    /// Of the dictionary; none over UDP.
    keys: BTreeSet<String>,
}

impl Reply {
    fn of_datagram(reply: udp::Reply) -> Reply {
        assert!(INTERVALS.contains(&reply.interval.into()), "{reply:?}");
        Reply {
            seeders: reply.seeders.into(),
            leechers: reply.leechers.into(),
            downloaded: None,
            peers: distinct(reply.peers),
            keys: BTreeSet::new(),
        }
    }

    fn of_response(response: &Response) -> Reply {
        let reply = response.bencoded();
        let interval = reply.integer("interval");
        assert!(INTERVALS.contains(&interval), "{reply:?}");
        assert_eq!(reply.integer("min interval"), interval / 2);
        let downloaded = reply.get("downloaded");
        Reply {
            seeders: reply.integer("complete"),
            leechers: reply.integer("incomplete"),
            downloaded: downloaded.map(|_| reply.integer("downloaded")),
            peers: distinct(response.peers()),
            keys: reply.keys().into_iter().collect(),
        }
    }
}

fn distinct(peers: Vec<SocketAddr>) -> BTreeSet<SocketAddr> {
    let set: BTreeSet<SocketAddr> = peers.iter().copied().collect();
    assert_eq!(set.len(), peers.len(), "each peer once: {peers:?}");
    set
}

/// Seeders, completed and leechers of some torrents.
type Counts = BTreeMap<Vec<u8>, [i64; 3]>;

fn counts_of(scrape: &Response) -> Counts {
    let reply = scrape.bencoded();
    assert_eq!(reply.keys(), ["files"]);
    let Some(Dictionary(files)) = reply.get("files") else {
        panic!("no files: {reply:?}");
    };
    let keys = ["complete", "downloaded", "incomplete"];
    let counts = files.iter().map(|(hash, file)| {
        assert_eq!(file.keys(), keys);
        (hash.clone(), keys.map(|key| file.integer(key)))
    });
    counts.collect()
}

fn scrape_target(hashes: &[Hash]) -> String {
    let parameters = hashes
        .iter()
        .map(|hash| format!("info_hash={}&", escape(hash)));
    format!(
        "/scrape?{}",
        parameters.collect::<String>().trim_end_matches('&')
    )
}

/// Both trackers, opentracker first, and the swarms that follow from the announces to them.
struct SideBySide {
    theirs: Opentracker,
    ours: Daemon,
    /// Clients of each, by their source address.
    clients: BTreeMap<Ipv4Addr, [udp::Client; 2]>,
    /// The peers of each swarm, and whether they seed. A reply does not tell seeders from leechers.
    peers: BTreeMap<(Hash, SocketAddr), bool>,
    seen: BTreeSet<&'static str>,
}

impl SideBySide {
    /// Runs a test with both, unless there is no opentracker to compare with.
    fn run(test: impl FnOnce(&mut SideBySide)) {
        if let Some(what) = opentracker::missing() {
            return skip(&what);
        }
        let odd = [EIGHT_BIT, BRACKETS].map(|text| text.as_bytes().try_into().expect("20 bytes"));
        let hashes = (0..=255).map(torrent).chain([MARKS]).chain(odd);
        test(&mut SideBySide {
            theirs: Opentracker::start(Command::new(OPENTRACKER), hashes),
            ours: Daemon::start_with(&["-i", "127.0.0.1", "-p", "0", "-P", "0"]),
            clients: BTreeMap::new(),
            peers: BTreeMap::new(),
            seen: BTreeSet::new(),
        });
    }

    fn http_addresses(&self) -> [SocketAddr; 2] {
        [self.theirs.address, self.ours.tcp4()]
    }

    /// A client of each.
    fn clients(&mut self, source: Ipv4Addr) -> &[udp::Client; 2] {
        let trackers = [self.theirs.address, self.ours.udp4()];
        self.clients.entry(source).or_insert_with(|| {
            trackers.map(|tracker| {
                let mut client = udp::Client::from(&source.to_string(), tracker);
                client.connect();
                client
            })
        })
    }

    /// The response of each.
    fn get(&self, target: &str) -> [Response; 2] {
        self.http_addresses()
            .map(|tracker| http::get(tracker, target))
    }

    /// The reply of each.
    fn exchange(&mut self, step: &Step) -> [Reply; 2] {
        match step.over {
            Http => self.exchange_at(&step.target(), step),
            Udp => {
                self.record(step);
                let [theirs, ours] = self.clients(step.peer.0);
                let announce = step.datagram();
                [theirs, ours].map(|client| Reply::of_datagram(client.announce(&announce)))
            }
        }
    }

    /// The same over HTTP, with another target for this step.
    fn exchange_at(&mut self, target: &str, step: &Step) -> [Reply; 2] {
        assert_eq!((step.over, step.peer.0), (Http, LOCALHOST));
        self.record(step);
        self.get(target)
            .map(|response| Reply::of_response(&response))
    }

    fn record(&mut self, step: &Step) {
        let key = (step.torrent, step.peer.into());
        match step.event {
            Event::Stopped => self.peers.remove(&key),
            _ => self.peers.insert(key, step.left == 0),
        };
    }

    /// Announces to both and compares their replies, and then their counts: seeders, completed, leechers. The swarm
    /// must be smaller than `num_want`, so that both send all peers.
    fn announce(&mut self, step: &Step) -> [u32; 3] {
        let replies = self.exchange(step);
        self.compare(step, replies)
    }

    fn compare(&mut self, step: &Step, [theirs, ours]: [Reply; 2]) -> [u32; 3] {
        let counts = self.scrape(&[step.torrent])[0];
        let expected = self.adapt(theirs, step, counts);
        assert_eq!(ours, expected, "{step:?}");
        counts
    }

    /// Our expected reply, by theirs.
    fn adapt(&mut self, theirs: Reply, step: &Step, counts: [u32; 3]) -> Reply {
        let mut reply = theirs;
        let asker = step.peer.into();
        let has_peers = step.event != Event::Stopped && step.num_want != 0;
        assert_eq!(reply.peers.remove(&asker), has_peers, "{step:?}");
        reply.peers.retain(|peer| peer.port() > 1);
        if has_peers {
            self.seen.insert(ASKER_LEFT_OUT);
        }
        if step.left == 0 {
            let all = reply.peers.len();
            let seeds = |peer: &SocketAddr| self.peers[&(step.torrent, *peer)];
            reply.peers.retain(|peer| !seeds(peer));
            if reply.peers.len() < all {
                self.seen.insert(SEEDERS_LEFT_OUT);
            }
        }
        if step.over == Http {
            assert!(reply.keys.insert("external ip".into()));
            self.seen.insert(EXTERNAL_IP);
        }
        if step.over == Http && step.event == Event::Stopped {
            assert!(reply.keys.insert("downloaded".into()));
            reply.downloaded = Some(counts[1].into());
            self.seen.insert(DOWNLOADED_ON_STOP);
        }
        reply
    }

    /// Scrapes both over UDP; seeders, completed and leechers of each torrent.
    fn scrape(&mut self, hashes: &[Hash]) -> Vec<[u32; 3]> {
        let [theirs, ours] = self.clients(LOCALHOST);
        let [theirs, ours] = [theirs, ours].map(|client| client.scrape(hashes));
        assert_eq!(ours, theirs, "{hashes:?}");
        ours
    }

    /// Scrapes both over HTTP, of torrents in order; our counts.
    fn scrape_http(&mut self, hashes: &[Hash]) -> Counts {
        let [mut theirs, ours] = self.get(&scrape_target(hashes)).map(|r| counts_of(&r));
        for hash in hashes {
            theirs.entry(hash.to_vec()).or_insert_with(|| {
                self.seen.insert(UNKNOWN_ARE_ZEROS);
                [0; 3]
            });
        }
        assert_eq!(ours, theirs, "{hashes:?}");
        ours
    }
}

#[test]
fn a_swarm_has_the_same_counts_and_peers_from_its_first_peer_to_its_last() {
    SideBySide::run(|both| {
        let here = (LOCALHOST, 1000);
        let next_door = (LOCALHOST, 1001);
        let there = (Ipv4Addr::new(127, 0, 1, 2), 1000);
        let far = (Ipv4Addr::new(127, 255, 255, 254), 65535);
        #[rustfmt::skip] // A table reads best a line each.
        let steps = [
            (Udp, here, 9, Event::Started, [0, 0, 1], "the first leecher"),
            (Udp, there, 0, Event::Started, [1, 0, 1], "the first seeder"),
            (Http, next_door, 9, Event::None, [1, 0, 2], "no event needed"),
            (Udp, far, u64::MAX, Event::Started, [1, 0, 3], "all is left"),
            (Http, here, 9, Event::Completed, [1, 0, 3], "not yet complete"),
            (Udp, here, 0, Event::None, [2, 0, 2], "seeds, but did not say so"),
            (Http, here, 0, Event::Completed, [2, 1, 2], "now it did"),
            (Udp, here, 0, Event::Completed, [2, 1, 2], "a peer counts once"),
            (Udp, here, 5, Event::None, [1, 1, 3], "a seeder may turn leecher"),
            (Http, here, 0, Event::Completed, [2, 1, 2], "and still counts once"),
            (Udp, there, 0, Event::Completed, [2, 2, 2], "another peer counts too"),
            (Udp, far, 1 << 32, Event::Started, [2, 2, 2], "left has 64 bits"),
            (Udp, (there.0, 7), 0, Event::Stopped, [2, 2, 2], "unknown port"),
            (Http, (LOCALHOST, 7), 9, Event::Stopped, [2, 2, 2], "over HTTP, too"),
            (Udp, here, 7, Event::Stopped, [1, 2, 2], "its role is not what it says"),
            (Http, here, 0, Event::Stopped, [1, 2, 2], "is gone already"),
            (Http, here, 0, Event::Completed, [2, 3, 2], "comes back as another"),
            (Udp, there, 0, Event::Stopped, [1, 3, 2], "goes"),
            (Udp, far, 0, Event::Stopped, [1, 3, 1], "goes"),
            (Http, next_door, 1, Event::Stopped, [1, 3, 0], "goes"),
            (Http, here, 0, Event::Stopped, [0, 3, 0], "the last one goes"),
            (Udp, there, 1, Event::None, [0, 3, 1], "and the count is kept"),
        ];
        for (over, peer, left, event, expected, why) in steps {
            let step = Step::new(over, torrent(1), peer).with(left, event);
            assert_eq!(both.announce(&step), expected, "{why}");
        }
    });
}

/// Seeded, so that a failure can be reproduced.
#[test]
fn random_announces_and_scrapes_have_equal_replies() {
    SideBySide::run(|both| {
        let mut random = Random::seeded(3);
        let torrents: Vec<Hash> = (1..=8).map(torrent).collect();
        for _ in 0..5000 {
            match random.below(20) {
                0 => {
                    let some = torrents.iter().filter(|_| random.below(2) == 0).copied();
                    let hashes: Vec<Hash> = some.chain([torrent(9)]).collect();
                    both.scrape_http(&hashes);
                }
                1 => {
                    let some = (0..random.below(12)).map(|_| torrent(random.below(10) as u8));
                    let hashes: Vec<Hash> = some.chain([torrent(1)]).collect();
                    both.scrape(&hashes);
                }
                _ => {
                    both.announce(&random_step(&mut random, &torrents));
                }
            }
        }
        let counts = both.scrape_http(&torrents);
        let completed: i64 = counts.values().map(|[_, completed, _]| completed).sum();
        assert!(completed > 100, "{counts:?}");
        assert!(both.seen.iter().eq(&DIFFERENCES), "{:?}", both.seen);
    });
}

/// An announce of one of 48 peers, fewer than the least default of `num_want`. The last torrents have two leechers
/// and no seeder, so that they empty again and again.
fn random_step(random: &mut Random, torrents: &[Hash]) -> Step {
    let place = random.below(torrents.len());
    let is_lonely = place >= torrents.len() - 2;
    let (sources, ports) = if is_lonely { (2, 1) } else { (4, 12) };
    let networks = [[0, 0, 1], [0, 1, 2], [9, 0, 77], [255, 255, 254]];
    let [a, b, c] = networks[random.below(sources)];
    let source = Ipv4Addr::new(127, a, b, c);
    let over_http = source == LOCALHOST && random.below(4) > 0;
    let lefts = [1, 700_000_000, u64::MAX, 0, 0];
    use Event::{Completed, None, Started, Stopped};
    let events = [None, None, Started, Completed, Stopped];
    Step {
        over: if over_http { Http } else { Udp },
        torrent: torrents[place],
        peer: (source, 20_000 + random.below(ports) as u16),
        left: lefts[random.below(if is_lonely { 3 } else { 5 })],
        event: events[random.below(events.len())],
        num_want: [-1, 0, 50, 200][random.below(4)],
    }
}

#[test]
fn numwant_is_applied_alike_but_for_its_default_over_udp() {
    SideBySide::run(|both| {
        for i in 0..300 {
            let source = Ipv4Addr::new(127, 0, 2, (i % 7) as u8 + 1);
            let mut step = Step::new(Udp, torrent(1), (source, 3000 + i));
            (step.left, step.num_want) = (u64::from(i % 2), 0);
            both.announce(&step);
        }
        for num_want in [-7, -1, 0, 1, 50, 200, i32::MAX] {
            for (over, left) in [(Udp, 0), (Udp, 1), (Http, 0), (Http, 1)] {
                // The default of announced is 50. That of opentracker is 50 over HTTP, and the maximum over UDP.
                let (in_theirs, in_ours) = match usize::try_from(num_want) {
                    Ok(number) => (number.min(200), number.min(200)),
                    Err(_) if over == Udp => (200, 50),
                    Err(_) => (50, 50),
                };
                // Half of the swarm seeds, and a seeder is sent the other half alone.
                let in_ours = if left == 0 { in_ours.min(150) } else { in_ours };
                let mut step = Step::new(over, torrent(1), (LOCALHOST, 2000));
                (step.left, step.num_want) = (left, num_want);
                check_sample(both, &step, in_theirs, in_ours);
            }
        }
    });
}

/// Asserts that both replies have this many peers, and only peers of the swarm.
fn check_sample(both: &mut SideBySide, step: &Step, in_theirs: usize, in_ours: usize) {
    let [theirs, ours] = both.exchange(step);
    let context = format!("{step:?}");
    let counts = [&theirs, &ours].map(|reply| (reply.seeders, reply.leechers));
    assert_eq!(counts[0], counts[1], "{context}");
    assert_eq!(theirs.peers.len(), in_theirs, "{context}");
    assert_eq!(ours.peers.len(), in_ours, "{context}");
    assert!(!ours.peers.contains(&step.peer.into()), "{context}");
    let seeds = |peer: &SocketAddr| both.peers.get(&(step.torrent, *peer)).copied();
    let is_useful = |peer| seeds(peer).is_some_and(|seeds| !seeds || step.left > 0);
    assert!(
        theirs.peers.iter().all(|peer| seeds(peer).is_some()),
        "{context}"
    );
    assert!(ours.peers.iter().all(is_useful), "{context}");
}

#[test]
fn paths_are_routed_alike() {
    SideBySide::run(|both| {
        #[rustfmt::skip]
        let announces = [
            "/announce", "//announce", "///announce", "/announce.php", "/announce/", "/announce/key/0123", "/announce ",
            "/a", "/anything", "/%61nnounce",
        ];
        for (port, path) in (1..).zip(announces) {
            let step = Step::new(Http, torrent(1), (LOCALHOST, port));
            let target = step.target().replacen("/announce", path, 1);
            let replies = both.exchange_at(&target, &step);
            let counts = both.compare(&step, replies);
            assert_eq!(counts, [0, 0, port.into()], "{path}");
        }
        let expected = Counts::from([(torrent(1).to_vec(), [0, 0, announces.len() as i64])]);
        #[rustfmt::skip]
        let scrapes = ["/scrape", "//scrape", "/scrape.php", "/scrape ", "/sc"];
        for path in scrapes {
            let target = scrape_target(&[torrent(1)]).replacen("/scrape", path, 1);
            let counts = both.get(&target).map(|r| counts_of(&r));
            assert_eq!(counts, [expected.clone(), expected.clone()], "{path}");
        }
        for path in ["/x", "/s"] {
            let statuses = both.get(path).map(|response| response.status);
            assert_eq!(statuses, [404, 404], "{path}");
        }
        for path in ["/", "/x", "/Announce", "/x/announce"] {
            let target = format!("{path}?info_hash={}&port=1", escape(&torrent(2)));
            let statuses = both.get(&target).map(|response| response.status);
            assert_eq!(statuses, [404, 200], "{path}");
        }
        // announced has a page of its own.
        assert_eq!(both.get("/").map(|response| response.status), [404, 200]);
    });
}

#[test]
fn info_hashes_and_parameters_are_parsed_alike() {
    SideBySide::run(|both| {
        let upper = "%BC".repeat(20);
        let lower = "%bc".repeat(20);
        let mixed = "%bC%Bc".repeat(10);
        let marks = std::str::from_utf8(&MARKS).expect("is ASCII");
        // It is a space to announced, as in form encoding.
        let marks = &marks.replace('+', "%2B");
        // A hash and how it is written, the rest of the query, and whether it is a seeder's.
        #[rustfmt::skip] // A table reads best a line each.
        let queries = [
            (torrent(0xbc), &*upper, "port=1", false),
            (torrent(0xbc), &lower, "port=2&left=0", true),
            (torrent(0xbc), &mixed, "port=3&left=00", true),
            (torrent(b'+'), &"%2b".repeat(20), "port=05&left=0", true),
            (torrent(b'z'), &"z%7az%7A".repeat(5), "%70ort=6&left=1", false),
            (torrent(b'z'), &"z".repeat(20), "left=-1&port=7", false),
            (MARKS, marks, "port=8&left=18446744073709551615", false),
            (MARKS, marks, "&&port=9&event=paused&odd&=&x=&left=0", true),
            (MARKS, marks, "port=10&ip=9.9.9.9&key=A%20b&no_peer_id=1&trackerid=x", false),
        ];
        for (info_hash, written, rest, seeds) in queries {
            let step = Step::new(Http, info_hash, (LOCALHOST, port_in(rest)));
            let step = step.with((!seeds).into(), Event::None);
            let target = format!("/announce?info_hash={written}&{rest}");
            let replies = both.exchange_at(&target, &step);
            both.compare(&step, replies);
        }
        assert_eq!(both.scrape(&[torrent(0xbc), MARKS]), [[2, 0, 1], [1, 0, 2]]);
    });
}

fn port_in(query: &str) -> u16 {
    let (_, after) = query.split_once("ort=").expect("a port");
    let digits = after.split('&').next().expect("at least one");
    digits.parse().expect("a number")
}

#[test]
fn scrapes_have_the_same_counts_and_differ_in_order_and_limits() {
    SideBySide::run(|both| {
        let hashes: Vec<Hash> = (1..=74).map(torrent).collect();
        for &info_hash in &hashes {
            for port in 1..=u16::from(info_hash[0] % 5) {
                both.announce(&Step::new(Udp, info_hash, (LOCALHOST, port)));
            }
        }
        let expected: Vec<[u32; 3]> = (1..=74).map(|n| [0, 0, n % 5]).collect();
        assert_eq!(both.scrape(&hashes), expected);
        let some = [torrent(3), torrent(200), torrent(1), torrent(3), torrent(2)];
        let expected = [[0, 0, 3], [0; 3], [0, 0, 1], [0, 0, 3], [0, 0, 2]];
        assert_eq!(both.scrape(&some), expected);
        assert_eq!(both.scrape_http(&hashes[..64]).len(), 64);
        let zeros = Counts::from([(torrent(200).to_vec(), [0; 3])]);
        assert_eq!(both.scrape_http(&[torrent(200)]), zeros);

        // opentracker reads 64 torrents of a request over HTTP, of which it leaves out 12, and 75 over UDP. announced
        // reads all over HTTP and 74 over UDP (BEP 15).
        let all = both.get(&scrape_target(&hashes));
        assert_eq!(all.map(|r| counts_of(&r).len()), [52, 74]);
        let one_more: Vec<Hash> = (1..=75).map(torrent).collect();
        let [theirs, ours] = both.clients(LOCALHOST);
        let records = [theirs, ours].map(|client| client.scrape(&one_more).len());
        assert_eq!(records, [75, 74]);

        // opentracker writes them in the order of the request, and repeats them, which is not a valid dictionary.
        let request = scrape_target(&[torrent(2), torrent(1), torrent(2)]);
        let [theirs, ours] = both.get(&request).map(|response| response.body);
        let entry = |n: u8| {
            let counts = format!("d8:completei0e10:downloadedi0e10:incompletei{n}ee");
            [&b"20:"[..], &torrent(n), counts.as_bytes()].concat()
        };
        let files = |numbers: &[u8]| {
            let entries: Vec<u8> = numbers.iter().flat_map(|&n| entry(n)).collect();
            [&b"d5:filesd"[..], &entries, b"ee"].concat()
        };
        assert_eq!(theirs, files(&[2, 1, 2]));
        assert_eq!(ours, files(&[1, 2]));
    });
}

/// A response in one word.
fn gist(response: &Response) -> String {
    if response.status != 200 {
        return response.status.to_string();
    }
    let reply = response.bencoded();
    match reply.get("failure reason") {
        Some(_) => "refused".into(),
        None if reply.integer("complete") > 0 => "seeder".into(),
        None => "leecher".into(),
    }
}

#[test]
fn http_requests_that_one_refuses_differ() {
    SideBySide::run(|both| {
        let eight_bit = format!("info_hash={EIGHT_BIT}&port=1");
        let brackets = format!("info_hash={BRACKETS}&port=1");
        // A query, in which # is a torrent of its own; opentracker's answer, announced's, and the reason.
        #[rustfmt::skip] // A table reads best a line each.
        let queries = [
            ("#&port=1&left=4294967296", "seeder", "leecher", "opentracker's left has 32 bits"),
            ("#&port=1&left=many", "seeder", "leecher", "invalid is not zero"),
            ("#&port=1&left=", "400", "leecher", "nor is empty"),
            ("#&port=65536", "400", "refused", "clients show a failure reason"),
            ("info_hash=short&port=1", "400", "refused", "the same"),
            ("#&port=1&info_hash=%00", "400", "refused", "the same"),
            ("port=1", "refused", "refused", "the only failure reason of both"),
            ("#&port=1&numwant=many", "400", "leecher", "this does no harm"),
            ("#&port=1&numwant=", "400", "leecher", "nor does this"),
            ("#&port=1&compact=0", "400", "leecher", "all clients read compact peers"),
            ("#&port=1&peer_id=short", "400", "leecher", "peer ids are not used"),
            ("info_hash=++++++++++++++++++++&port=1", "leecher", "leecher", "but + is a space, %20"),
            (&eight_bit, "400", "leecher", "some clients do not escape"),
            (&brackets, "400", "leecher", "the same"),
        ];
        for (number, (query, in_theirs, in_ours, why)) in (1..).zip(queries) {
            let info_hash = format!("info_hash={}", escape(&torrent(number)));
            let target = format!("/announce?{}", query.replacen('#', &info_hash, 1));
            let gists = both.get(&target).map(|response| gist(&response));
            assert_eq!(gists, [in_theirs, in_ours], "{query}: {why}");
        }
        let info_hash = escape(&torrent(200));
        let absolute = format!("http://tracker/announce?info_hash={info_hash}&port=1");
        let gists = both.get(&absolute).map(|response| gist(&response));
        assert_eq!(gists, ["400", "leecher"], "proxies send whole URLs");
    });
}

/// opentracker compresses whatever the client accepts.
#[test]
fn a_dump_of_opentracker_is_loaded() {
    SideBySide::run(|both| {
        let counts = [(1, 3), (2, 1)];
        for (number, completed) in counts {
            for port in 1..=completed {
                let step = Step::new(Udp, torrent(number), (LOCALHOST, port));
                both.announce(&step.with(0, Event::Completed));
            }
        }
        let response = http::get(both.theirs.address, "/stats?mode=statedump");
        assert_eq!(response.header("Content-Encoding"), Some("gzip"));
        let directory = Directory::new("their-dump");
        let dump = directory.write("dump", &response.body);
        let daemon = Daemon::start(&["-l", &dump]);
        daemon.wait_for_line("dump: loaded: 2 downloaded counts");
        let scraped = udp::Client::new(daemon.udp4()).scrape(&[torrent(1), torrent(2)]);
        assert_eq!(scraped, [[0, 3, 0], [0, 1, 0]]);
    });
}

/// opentracker serves one request of a connection, and only GET.
#[test]
fn http_connections_differ() {
    SideBySide::run(|both| {
        let target = Step::new(Http, torrent(1), (LOCALHOST, 1)).target();
        let trackers = both.http_addresses();
        let get = format!("GET {target} HTTP/1.1\r\n\r\n");
        let [mut theirs, mut ours] = trackers.map(|tracker| {
            let mut client = http::Client::new(tracker);
            Reply::of_response(&client.request(&get));
            client
        });
        assert_eq!(theirs.read_to_end(), b"");
        Reply::of_response(&ours.request(&get));

        let head = format!("HEAD {target} HTTP/1.1\r\nConnection: close\r\n\r\n");
        let statuses = trackers.map(|tracker| {
            let mut client = http::Client::new(tracker);
            client.send(&head);
            client.receive_to("HEAD").status
        });
        assert_eq!(statuses, [400, 200]);
    });
}

#[test]
fn invalid_datagrams_get_the_same_reply() {
    SideBySide::run(|both| {
        let elsewhere = both.clients(Ipv4Addr::new(127, 0, 3, 4));
        let foreign = elsewhere.each_ref().map(|client| client.connection);
        for (client, connection) in both.clients(LOCALHOST).iter().zip(foreign) {
            let announce = client.announce_request(&udp::Announce::default());
            // Too short, of no known action, or a connect without the protocol's number.
            let short = [b"", &announce[..15], &announce[..97]];
            assert!(short.iter().all(|datagram| client.is_silent_on(datagram)));
            let heads = [3, 99, 0].map(|action| client.head(action));
            assert!(heads.iter().all(|datagram| client.is_silent_on(datagram)));
            // A connection id that is made up, or another address's, is an error: action 3.
            for id in [!client.connection, connection] {
                let forged = [&id.to_be_bytes(), &announce[8..]].concat();
                assert_eq!(client.exchange(&forged)[..4], 3_u32.to_be_bytes());
            }
        }
        assert_eq!(both.scrape(&[udp::Announce::default().info_hash]), [[0; 3]]);
    });
}

#[test]
fn datagrams_that_one_refuses_differ() {
    SideBySide::run(|both| {
        let step = Step::new(Udp, torrent(1), (LOCALHOST, 1));
        both.announce(&step);
        let [theirs, ours] = both.clients(LOCALHOST);

        // BEP 41's options follow an announce: both skip them, and an unknown event is none.
        let mut odd = step.datagram();
        odd.event = 4;
        for client in [theirs, ours] {
            let request = [&client.announce_request(&odd)[..], b"\x02\x09/announce"].concat();
            let reply = client.exchange(&request);
            assert_eq!(reply[..4], 1_u32.to_be_bytes());
            assert_eq!(reply[12..20], [0, 0, 0, 1, 0, 0, 0, 0], "one leecher");
        }

        // Both count a peer without a port, which opentracker sends to others.
        let mut nowhere = step.datagram();
        nowhere.port = 0;
        assert_eq!(
            [theirs, ours].map(|client| client.announce(&nowhere).leechers),
            [2, 2]
        );
        let step = Step::new(Udp, torrent(1), (LOCALHOST, 3));
        let peers = [theirs, ours].map(|client| client.announce(&step.datagram()).peers.len());
        assert_eq!(peers, [3, 0], "the asker, port 0 and port 1");

        // A scrape of a whole hash and a part of one: opentracker reads beyond the datagram.
        let [in_theirs, in_ours] = [theirs, ours].map(|client| {
            let request = [&client.scrape_request(&[torrent(2)])[..], b"piece"].concat();
            client.exchange(&request).len()
        });
        assert_eq!([in_theirs, in_ours], [8 + 2 * 12, 8 + 12]);

        // A scrape of nothing.
        assert_eq!(theirs.exchange(&theirs.head(2)).len(), 8);
        assert!(ours.is_silent_on(&ours.head(2)));
    });
}

/// The text with each number replaced by a single 0, except for info-hashes.
fn form_of(text: &str) -> String {
    let mut form = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let number = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        if is_number && number.len() < 40 {
            form.push('0');
            form.push_str(&word[number.len()..]);
        } else {
            form.push_str(word);
        }
    }
    form
}

#[test]
fn statistics_have_the_same_form_line_for_line() {
    SideBySide::run(|both| {
        let trackers = both.http_addresses();
        // opentracker has a peer of this torrent already.
        let target = format!("/announce?info_hash={}&port=1", escape(&FIRST));
        http::get(trackers[1], &target);
        for (number, port, left, event) in [
            (1, 1, 0, Event::Completed),
            (1, 2, 5, Event::Started),
            (1, 3, 5, Event::Started),
            (2, 1, 5, Event::None),
            (2, 1, 5, Event::None),
            (3, 1, 0, Event::Completed),
            (3, 2, 0, Event::Started),
            (3, 3, 5, Event::None),
            (3, 4, 5, Event::None),
        ] {
            let step = Step::new(Http, torrent(number), (LOCALHOST, port)).with(left, event);
            both.get(&step.target());
        }
        both.get(&scrape_target(&[torrent(1)]));
        let report = |tracker: SocketAddr, query: &str| {
            let reply = http::get(tracker, &format!("/stats{query}"));
            assert_eq!(reply.status, 200, "{query}");
            assert_eq!(reply.header("Content-Type"), Some("text/plain"), "{query}");
            reply.text()
        };
        for query in ["", "?mode=peer", "?mode=torr", "?mode=s24s"] {
            let [theirs, ours] = trackers.map(|tracker| report(tracker, query));
            assert_eq!(theirs, ours, "{query}");
        }
        for mode in "conn scrp udp4 tcp4 fscr completed renew syncs herr".split(' ') {
            let query = format!("?mode={mode}");
            let [theirs, ours] = trackers.map(|tracker| form_of(&report(tracker, &query)));
            assert_eq!(theirs, ours, "{mode}");
        }
        // Later versions have leechers too.
        for number in ["10", "100"] {
            let query = format!("?mode=top{number}");
            let [theirs, ours] = trackers.map(|tracker| report(tracker, &query));
            let leechers = format!("Top {number} torrents by leechers:\n");
            assert_eq!(theirs, ours.split_once(&leechers).expect("is there").0);
        }
        // The version differs.
        let [theirs, ours] = trackers.map(|tracker| {
            let text = report(tracker, "?mode=everything");
            let (before, rest) = text.split_once("<version>\n").expect("has one");
            let (_, after) = rest.split_once("  </version>").expect("ends");
            form_of(&format!("{before}{after}"))
        });
        assert_eq!(theirs, ours);
        for (mode, expected) in [
            ("nonsense", [400, 400]),
            ("", [400, 400]),
            // Neither has these; opentracker fails.
            ("busy", [500, 404]),
            ("fulllog", [500, 404]),
        ] {
            let statuses = both
                .get(&format!("/stats?mode={mode}"))
                .map(|reply| reply.status);
            assert_eq!(statuses, expected, "{mode}");
        }
    });
}
