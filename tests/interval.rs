//! The interval follows the rate of announces (`--target-rate`).

mod common;

use common::http::{get, metric};
use common::udp::{Announce, Client};
use common::{Daemon, wait_for};

/// With so many clients, each from its own port, all of two threads receive some.
const MANY: usize = 32;

fn interval(daemon: &Daemon) -> u64 {
    metric(&get(daemon.tcp4(), "/metrics").text(), "interval_seconds")
}

/// Announces from many ports over UDP and once over HTTP, until all are told such an interval.
fn announce_until(daemon: &Daemon, clients: &[Client], is_it: fn(i64) -> bool) {
    wait_for("another interval", || {
        let told = |client: &Client| client.announce(&Announce::default()).interval;
        let udp: Vec<i64> = clients.iter().map(|it| told(it).into()).collect();
        let path = format!("/announce?info_hash={}&port=6881&left=0", "a".repeat(20));
        let http = get(daemon.tcp4(), &path).bencoded();
        let interval = http.integer("interval");
        assert_eq!(http.integer("min interval"), interval / 2);
        let mut all = udp.iter().chain([&interval]);
        all.all(|it| is_it(*it)).then_some(())
    });
}

#[test]
fn a_flood_of_announces_lengthens_the_interval_for_all_threads_and_its_end_shortens_it() {
    for threads in ["1", "2"] {
        let flags = "--interval 5 --interval-max 20 --target-rate 5";
        let flags = flags.split(' ').chain(["-j", threads]);
        let daemon = Daemon::start(&flags.collect::<Vec<_>>());
        assert_eq!(interval(&daemon), 5);
        let clients: Vec<Client> = (0..MANY).map(|_| Client::new(daemon.udp4())).collect();
        // So short an interval is not spread.
        announce_until(&daemon, &clients, |told| (6..20).contains(&told));
        announce_until(&daemon, &clients, |told| told == 20);
        wait_for("a shorter interval", || {
            (interval(&daemon) < 20).then_some(())
        });
    }
}
