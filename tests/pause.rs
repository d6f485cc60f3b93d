//! A daemon that was stopped for longer than stamps stay unambiguous, as on a machine that was suspended.

mod common;

use common::udp::{Announce, Client};
use common::{Daemon, http, wait_longer};
use std::time::Duration;

/// Torrents, each with a peer: many slices of the sweep.
const MANY: u32 = 12_000;

/// A unit is five eighths of a second, and stamps reach 27 of them. Filling the table may take 40 seconds.
const PEER_TIMEOUT: &str = "60";
const PAUSE: Duration = Duration::from_secs(18);

fn hash(n: u32) -> [u8; 20] {
    let mut hash = [7; 20];
    hash[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    hash
}

fn fill(client: &Client) {
    let numbers: Vec<u32> = (0..MANY).collect();
    for batch in numbers.chunks(64) {
        for n in batch {
            let announce = Announce::default().of(hash(*n));
            client.send(&client.announce_request(&announce));
        }
        for _ in batch {
            assert_eq!(client.receive()[..4], 1_u32.to_be_bytes());
        }
    }
}

/// How many of some torrents have their peer.
fn alive(client: &Client) -> usize {
    let hashes: Vec<_> = (0..MANY).step_by(MANY as usize / 70).map(hash).collect();
    let counts = hashes.chunks(70).flat_map(|hashes| client.scrape(hashes));
    counts.filter(|[.., leechers]| *leechers == 1).count()
}

/// Requests sent during the pause are answered once the table has been swept. Peers whose timeout has not passed
/// survive, and expire later.
#[test]
fn after_a_long_pause_waiting_requests_are_answered_and_unexpired_peers_survive() {
    let daemon = Daemon::start(&["--interval", "40", "--peer-timeout", PEER_TIMEOUT]);
    let client = Client::new(daemon.udp4());
    let mut kept = http::Client::new(daemon.tcp4());
    assert_eq!(kept.request("GET /health HTTP/1.1\r\n\r\n").status, 200);
    fill(&client);
    let before = alive(&client);
    assert!(before >= 70);

    daemon.signal("STOP");
    std::thread::sleep(PAUSE);
    kept.send("GET /health HTTP/1.1\r\n\r\n");
    let mut newcomer = http::Client::new(daemon.tcp4());
    newcomer.send("GET /health HTTP/1.1\r\n\r\n");
    client.send(&client.announce_request(&Announce::default()));
    daemon.signal("CONT");

    assert_eq!(client.receive()[..4], 1_u32.to_be_bytes());
    assert_eq!(kept.receive().text(), "ok\n");
    assert_eq!(newcomer.receive().text(), "ok\n");
    assert_eq!(alive(&client), before);
    daemon.wait_for_line("table: long pause: requests wait");
    daemon.wait_for_line("table: expired peers removed: requests waited");
    wait_longer("the peers to expire", 6 * common::DEADLINE, || {
        (alive(&client) == 0).then_some(())
    });
}

/// The signal is handled before the sweep, and the saved state is that of a swept table.
#[test]
fn a_daemon_that_is_stopped_right_after_a_pause_saves_its_state() {
    let directory = common::Directory::new("pause");
    let state = directory.file("state");
    let flags = ["--interval", "40", "--peer-timeout", PEER_TIMEOUT];
    let flags = [&flags[..], &["--state", &state]].concat();
    let mut daemon = Daemon::start(&flags);
    fill(&Client::new(daemon.udp4()));
    daemon.signal("STOP");
    std::thread::sleep(PAUSE);
    daemon.signal("TERM");
    daemon.signal("CONT");
    assert!(daemon.wait().0.success());
    let daemon = Daemon::start(&flags);
    daemon.wait_for_line("loaded: 12000 torrents, 12000 peers");
}
