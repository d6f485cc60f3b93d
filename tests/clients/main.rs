//! Real BitTorrent clients find each other through the tracker, and one sends the other a file.
//!
//! All other tests speak to the tracker in our own reading of the protocols. Here four clients written by other
//! people do it: each ordered pair of them seeds and fetches a file of random bytes, over HTTP and UDP, IPv4 and
//! IPv6. DHT, peer exchange and local discovery are off and the torrent is private, so a file that arrives came from
//! a peer that the tracker named. The test scrapes the tracker, too: it must know the first client before the second
//! one starts, must count the download, and must have forgotten both once they have left.
//!
//! The second client learns of the first from the reply to its first announce, so no client waits for an interval. A
//! client that can announce over a transport but cannot read the peers of the reply comes first, so that the other
//! one finds it; [`client::Client::reach`] lists them with the reasons.
//!
//! The pairs run on hosts of their own in a sandbox, a few at a time, since clients mostly wait. The loopback would
//! not do: Transmission ignores peers in 127/8, and clients that share a host share its ports.

#![cfg(target_os = "linux")]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod torrent;

use client::{CLIENTS, Client, Reach, Running};
use common::net::{Host, Lan, in_sandbox};
use common::{Daemon, skip, udp};
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use torrent::Torrent;

#[test]
fn clients_meet_over_http() {
    meet("clients_meet_over_http", Transport::Http);
}

#[test]
fn clients_meet_over_http_and_ipv6() {
    meet("clients_meet_over_http_and_ipv6", Transport::HttpIpv6);
}

#[test]
fn clients_meet_over_udp() {
    meet("clients_meet_over_udp", Transport::Udp);
}

#[test]
fn clients_meet_over_udp_and_ipv6() {
    meet("clients_meet_over_udp_and_ipv6", Transport::UdpIpv6);
}

/// libtorrent uses a connection id for a minute. A `stopped` with one that the tracker refuses would be lost.
#[test]
fn libtorrent_is_served_at_once_after_a_restart() {
    let test = "libtorrent_is_served_at_once_after_a_restart";
    if let Some(what) = torrent::missing().or_else(|| Client::Libtorrent.missing()) {
        return skip(&format!("{test}: {what}"));
    }
    in_sandbox(test, |lan| {
        let mut network = Network::new(lan, Transport::Udp);
        let tracker = SocketAddr::new(network.address, PORT);
        let url = Transport::Udp.announce_url(tracker);
        let torrent = Torrent::new(lan.file("restart").as_ref(), &[&url]);
        let host = network.host();
        let mut client = Running::start(Client::Libtorrent, &host, &torrent, "seeder");
        let seeders = |network: &Network| network.scrape(torrent.info_hash)[0];
        let joined = wait_until("it to join", &mut [&mut client], |_| seeders(&network) == 1);
        joined.expect("the tracker is there");
        network.restart();
        assert_eq!(seeders(&network), 1);
        client.leave();
        let left = wait_until("it to leave", &mut [&mut client], |_| {
            seeders(&network) == 0
        });
        left.expect("its connection id is still valid");
    });
}

/// A refusal is an error to clients, in whatever way it is written: libtorrent goes on to the next tier.
#[test]
fn libtorrent_reaches_the_second_tier_if_the_first_tracker_refuses_the_torrent() {
    let test = "libtorrent_reaches_the_second_tier_if_the_first_tracker_refuses_the_torrent";
    let missing = torrent::missing().or_else(|| Client::Libtorrent.missing());
    if let Some(what) = missing {
        return skip(&format!("{test}: {what}"));
    }
    in_sandbox(test, |lan| {
        let second = Network::new(lan, Transport::Http);
        let first = lan.host();
        let (ip, list) = (first.v4().to_string(), lan.file("list"));
        std::fs::write(&list, "").expect("a list");
        let _refusing = first.start(&["-i", &ip, "-w", &list]);
        for (number, transport) in [Transport::Http, Transport::Udp].into_iter().enumerate() {
            let trackers = [first.v4(), second.address].map(|ip| SocketAddr::new(ip, PORT));
            let urls = trackers.map(|tracker| transport.announce_url(tracker));
            let dir = lan.file(&format!("tiers-{number}"));
            let torrent = Torrent::new(dir.as_ref(), &[&urls[0], &urls[1]]);
            let host = second.host();
            let mut client = Running::start(Client::Libtorrent, &host, &torrent, "seeder");
            // Its log has the text of a refusal over HTTP only.
            let refused = "tracker_error_alert";
            let reached = wait_until("the second tracker", &mut [&mut client], |clients| {
                clients[0].log().contains(refused) && second.scrape(torrent.info_hash)[0] == 1
            });
            reached.unwrap_or_else(|why| panic!("{transport:?}: {why}"));
        }
    });
}

/// The limit of every wait. The slowest client, Transmission, looks at its peers every ten seconds; the rest is for a
/// machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pairs at work at once. They wait for timers more than they compute.
const AT_ONCE: usize = 6;

/// The name of the tracker in `/etc/hosts`.
const NAME: &str = "tracker.test";
const PORT: u16 = 6969;

/// How clients reach the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Http,
    HttpIpv6,
    Udp,
    UdpIpv6,
}

impl Transport {
    fn is_ipv6(self) -> bool {
        matches!(self, Transport::HttpIpv6 | Transport::UdpIpv6)
    }

    /// The URL has the address, except for UDP over IPv6: Transmission 3.00 cuts the host of a UDP URL at its first
    /// colon.
    fn announce_url(self, tracker: SocketAddr) -> String {
        match self {
            Transport::Http | Transport::HttpIpv6 => format!("http://{tracker}/announce"),
            Transport::Udp => format!("udp://{tracker}/announce"),
            Transport::UdpIpv6 => format!("udp://{NAME}:{PORT}/announce"),
        }
    }
}

/// Prints a line past the test harness's capture.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "clients: {line}");
}

/// The network of one transport, with the tracker on its first host.
struct Network<'a> {
    lan: &'a Lan,
    transport: Transport,
    host: Host,
    address: IpAddr,
    tracker: Daemon,
}

impl Network<'_> {
    fn new(lan: &Lan, transport: Transport) -> Network<'_> {
        let host = lan.host();
        let address = address(&host, transport);
        let hosts = lan.file("hosts");
        let names = std::fs::read_to_string(&hosts).expect("is there");
        std::fs::write(&hosts, format!("{names}{address} {NAME}\n")).expect("is written");
        let tracker = start_tracker(lan, &host, address);
        Network {
            lan,
            transport,
            host,
            address,
            tracker,
        }
    }

    /// Stops the tracker and starts it again, as after an upgrade.
    fn restart(&mut self) {
        self.tracker.signal("TERM");
        assert!(self.tracker.wait().0.success());
        self.tracker = start_tracker(self.lan, &self.host, self.address);
    }

    /// A new host, whose default route is the tracker: Transmission takes a host without one for one without IPv6.
    fn host(&self) -> (Host, IpAddr) {
        let host = self.lan.host();
        let address = address(&host, self.transport);
        ip(&host, &format!("route add default via {}", self.address));
        (host, address)
    }

    /// Seeders, completed downloads and leechers of a swarm.
    fn scrape(&self, info_hash: [u8; 20]) -> [u32; 3] {
        let tracker = SocketAddr::new(self.address, PORT);
        self.host.within(|| {
            let mut client = udp::Client::from(&self.address.to_string(), tracker);
            client.connect();
            client.scrape(&[info_hash])[0]
        })
    }
}

fn start_tracker(lan: &Lan, host: &Host, address: IpAddr) -> Daemon {
    let (ip, port, state) = (address.to_string(), PORT.to_string(), lan.file("state"));
    host.start(&[
        "-i", &ip, "-p", &port, "-P", &port, "-u", "nobody", "--state", &state,
    ])
}

/// The address by which a host is reached. Transmission looks for an address in 2000::/3 before it uses IPv6 for UDP,
/// so each host gets one from the block for documentation.
fn address(host: &Host, transport: Transport) -> IpAddr {
    let IpAddr::V6(v6) = host.v6() else {
        panic!("an IPv6 address");
    };
    if !transport.is_ipv6() {
        return host.v4();
    }
    let global = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, v6.segments()[7]);
    ip(host, &format!("address add {global}/64 dev eth0 nodad"));
    global.into()
}

fn ip(host: &Host, arguments: &str) {
    let mut command = host.command("ip");
    let done = command.args(arguments.split(' ')).status();
    assert!(done.expect("ip runs").success(), "ip {arguments}");
}

/// Lets all pairs meet over one transport, in a sandbox for the test of that name.
fn meet(test: &str, transport: Transport) {
    if let Some(what) = torrent::missing() {
        return skip(&format!("{test}: {what}"));
    }
    in_sandbox(test, |lan| {
        let mut network = Network::new(lan, transport);
        let pairs = pairs(transport);
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let begin = Instant::now();
                        match pair.meet(&network) {
                            Ok(()) => say(&format!("{pair}: {:?}", begin.elapsed())),
                            Err(why) => {
                                let failure = format!("{pair}: {why}");
                                failures.lock().expect("no panic").push(failure);
                            }
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().expect("no panic");
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        network.tracker.signal("TERM");
        assert!(network.tracker.wait().0.success());
    });
}

/// The ordered pairs of different clients that can meet over `transport`; the others are named. Pairs with the
/// slowest client come first, so that none is left to run alone at the end.
fn pairs(transport: Transport) -> Vec<Pair> {
    let is_here = |client: &Client| {
        let missing = client.missing();
        missing.iter().for_each(|what| skip(what));
        missing.is_none()
    };
    let here: Vec<Client> = CLIENTS.into_iter().filter(is_here).collect();
    let mut pairs = Vec::new();
    for &seeder in &here {
        for &fetcher in here.iter().filter(|&&fetcher| fetcher != seeder) {
            match Pair::new(seeder, fetcher, transport) {
                Ok(pair) => pairs.push(pair),
                Err(why) => say(&format!(
                    "{seeder:?} to {fetcher:?} is impossible over {transport:?}: {why}"
                )),
            }
        }
    }
    pairs.sort_by_key(|pair| ![pair.seeder, pair.fetcher].contains(&Client::Transmission));
    pairs
}

struct Pair {
    seeder: Client,
    fetcher: Client,
    is_seeder_first: bool,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}-{:?}", self.seeder, self.fetcher)
    }
}

impl Pair {
    /// Decides which client announces first; the error is the reason why these two can never meet.
    fn new(seeder: Client, fetcher: Client, transport: Transport) -> Result<Pair, &'static str> {
        let is_seeder_first = match (seeder.reach(transport), fetcher.reach(transport)) {
            (Reach::No(why), _) | (_, Reach::No(why)) => return Err(why),
            (_, Reach::Full) => true,
            (Reach::Full, _) => false,
            (Reach::AnnounceOnly(why), Reach::AnnounceOnly(_)) => return Err(why),
        };
        Ok(Pair {
            seeder,
            fetcher,
            is_seeder_first,
        })
    }

    /// Lets the clients meet, once more with another file if the first attempt fails: two clients that connect to
    /// each other at the same time can end with a connection that neither uses. The error has both attempts.
    fn meet(&self, network: &Network) -> Result<(), String> {
        self.attempt(1, network).or_else(|first| {
            say(&format!("{self}: retry after: {first}"));
            let second = self.attempt(2, network);
            second.map_err(|second| format!("{first}\n{second}"))
        })
    }

    /// Moves one file from the seeder to the fetcher. The error has the step that failed and the logs of the clients.
    fn attempt(&self, attempt: u8, network: &Network) -> Result<(), String> {
        let dir = network.lan.file(&format!("{self}-{attempt}"));
        let url = network
            .transport
            .announce_url(SocketAddr::new(network.address, PORT));
        let torrent = Torrent::new(dir.as_ref(), &[&url]);
        let scrape = || network.scrape(torrent.info_hash);
        let hosts = [(); 2].map(|()| network.host());
        let seed = || Running::start(self.seeder, &hosts[0], &torrent, "seeder");
        let fetch = || Running::start(self.fetcher, &hosts[1], &torrent, "fetcher");

        let (mut seeder, mut fetcher);
        if self.is_seeder_first {
            seeder = seed();
            let one = &mut [&mut seeder];
            wait_until("a seeder in the swarm", one, |_| scrape()[0] == 1)?;
            fetcher = fetch();
        } else {
            fetcher = fetch();
            let one = &mut [&mut fetcher];
            wait_until("a leecher in the swarm", one, |_| scrape()[2] == 1)?;
            seeder = seed();
        }
        let both = &mut [&mut seeder, &mut fetcher];
        wait_until("the file", both, |both| {
            torrent.is_fetched() && both[1].has_finished()
        })?;
        if self.fetcher.completes() {
            wait_until("the download to be counted", both, |_| scrape()[1] == 1)?;
        }
        both.iter_mut().for_each(|running| running.leave());
        wait_until("both clients to leave the swarm", both, |_| {
            let [seeders, _, leechers] = scrape();
            seeders + leechers == 0
        })
    }
}

/// Polls until `done`, or until patience is over or a client ends without having been asked to.
fn wait_until(
    what: &str,
    clients: &mut [&mut Running],
    done: impl Fn(&[&mut Running]) -> bool,
) -> Result<(), String> {
    let begin = Instant::now();
    while !done(clients) {
        let ended = clients.iter_mut().find_map(|running| running.ended_early());
        if ended.is_some() || begin.elapsed() > PATIENCE {
            let logs: Vec<String> = clients.iter().map(|running| running.log()).collect();
            let ended = ended.unwrap_or_default();
            return Err(format!("waited for {what}. {ended}\n{}", logs.join("\n")));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
