//! Attacks over UDP: floods, amplification, and tables filled with inventions.

use super::common::http::{get, metric};
use super::common::udp::{Announce, Client, connect_request};
use super::measure::{Attack, Target, attack, client, hash};
use super::sys::set_datagram_bytes;
use std::thread;
use std::time::{Duration, Instant};

pub const ATTACKS: &[Attack] = &[
    attack("no attack", "", |target| {
        while !target.is_over() {
            thread::sleep(Duration::from_millis(10));
        }
        String::new()
    }),
    attack("announces at half of capacity", "", |target| {
        announces(target, 0.5)
    }),
    attack("announces at twice the capacity", "", |target| {
        announces(target, 2.0)
    }),
    attack("connects at half of capacity", "", |target| {
        connects(target, 0.5)
    }),
    attack("connects at twice the capacity", "", |target| {
        connects(target, 2.0)
    }),
    attack("announces without a connection id", "", strangers),
    attack("every short datagram", "", amplification),
    attack("scrapes of 74 unknown hashes", "", scrapes),
    attack("rising hashes", "--max-torrents 200000", |target| {
        inventions(target, rising)
    }),
    attack("colliding hashes", "--max-torrents 200000", |target| {
        inventions(target, colliding)
    }),
    attack("one host in a swarm", "", one_host),
];

/// Datagrams that one `send` sends.
const BURST: usize = 32;

/// Sends copies of a datagram, changed by `patch`, at a rate or as fast as possible; the number.
fn flood(
    target: &Target,
    client: &Client,
    datagram: &[u8],
    rate: Option<f64>,
    mut patch: impl FnMut(&mut [u8], u64),
) -> u64 {
    set_datagram_bytes(client.socket(), datagram.len() as u16).expect("Linux 4.18");
    let mut burst = datagram.repeat(BURST);
    let (start, mut sent) = (Instant::now(), 0);
    target.repeat(|_| {
        for one in burst.chunks_exact_mut(datagram.len()) {
            patch(one, sent);
            sent += 1;
        }
        // A full buffer of the daemon drops what does not fit.
        let _ = client.socket().send(&burst);
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    });
    sent
}

/// Requests of a kind that were answered, and replies that were shed.
fn count(target: &Target, kind: &str) -> [u64; 2] {
    let metrics = get(target.tcp(), "/metrics").text();
    let answered = format!("requests_total{{protocol=\"udp\",kind=\"{kind}\"}}");
    let shed = "dropped_replies_total{reason=\"overload\"}";
    [&answered, shed].map(|name| metric(&metrics, name))
}

/// How many requests a second the daemon takes when there are always more: measured for half a second.
fn capacity(target: &Target, kind: &str, client: &Client, datagram: &[u8]) -> f64 {
    set_datagram_bytes(client.socket(), datagram.len() as u16).expect("Linux 4.18");
    let burst = datagram.repeat(BURST);
    let taken = || count(target, kind).iter().sum::<u64>();
    let (before, start) = (taken(), Instant::now());
    while start.elapsed() < Duration::from_millis(500) {
        let _ = client.socket().send(&burst);
    }
    (taken() - before) as f64 / start.elapsed().as_secs_f64()
}

fn at_rate(target: &Target, kind: &str, client: &Client, datagram: &[u8], share: f64) -> String {
    let capacity = target.prepare(|| capacity(target, kind, client, datagram));
    let before = count(target, kind);
    let start = Instant::now();
    let sent = flood(target, client, datagram, Some(share * capacity), |_, _| {});
    let rate = sent as f64 / start.elapsed().as_secs_f64();
    let after = count(target, kind);
    let [answered, shed] = [0, 1].map(|index| (after[index] - before[index]) as f64);
    let shed = 100.0 * shed / (answered + shed).max(1.0);
    let [rate, capacity] = [rate, capacity].map(|rate| rate / 1e3);
    format!("{rate:.0} k/s of {capacity:.0} k/s; {shed:.0} % shed")
}

fn announces(target: &Target, share: f64) -> String {
    let client = client(1, target.udp());
    let request = client.announce_request(&Announce::default());
    at_rate(target, "announce", &client, &request, share)
}

fn connects(target: &Target, share: f64) -> String {
    let client = client(1, target.udp());
    at_rate(target, "connect", &client, &connect_request(), share)
}

fn strangers(target: &Target) -> String {
    let mut client = client(1, target.udp());
    client.connection ^= 1 << 40;
    let request = client.announce_request(&Announce::default());
    let sent = flood(target, &client, &request, None, |_, _| {});
    format!("{} k", sent / 1000)
}

/// Every length up to 120 bytes with every action, with and without the id of a connect, and one of an old connection.
fn amplification(target: &Target) -> String {
    let client = client(1, target.udp());
    let socket = client.socket();
    socket
        .set_read_timeout(Some(Duration::from_millis(3)))
        .expect("a timeout");
    let (mut worst, mut bytes) = (0.0_f64, [0, 0]);
    let magic = 0x0417_2710_1980_u64;
    for id in [magic, 0, client.connection ^ 4] {
        for (length, action) in
            (0..=120_usize).flat_map(|length| (0..5_u8).map(move |action| (length, action)))
        {
            let mut datagram = id.to_be_bytes().to_vec();
            datagram.resize(length.max(12), 0x55);
            datagram[8..12].copy_from_slice(&[0, 0, 0, action]);
            datagram.truncate(length);
            if target.is_over() || socket.send(&datagram).is_err() {
                continue;
            }
            let mut reply = [0; 4096];
            let received = socket.recv(&mut reply).unwrap_or(0);
            bytes = [bytes[0] + length, bytes[1] + received];
            worst = worst.max(received as f64 / length.max(1) as f64);
        }
    }
    format!(
        "bytes out to in: {} to {}, at most {worst:.2}",
        bytes[1], bytes[0]
    )
}

fn scrapes(target: &Target) -> String {
    let client = client(1, target.udp());
    let hashes: Vec<_> = (1 << 40..(1 << 40) + 74).map(hash).collect();
    let request = client.scrape_request(&hashes);
    let sent = target.repeat(|_| drop(client.socket().send(&request)));
    format!("{} k", sent / 1000)
}

fn inventions(target: &Target, invent: fn(&mut [u8], u64)) -> String {
    let client = client(1, target.udp());
    let request = client.announce_request(&Announce::default());
    let sent = flood(target, &client, &request, None, |datagram, number| {
        invent(&mut datagram[16..36], number)
    });
    let torrents = metric(&get(target.tcp(), "/metrics").text(), "torrents");
    format!("{} k announces, {torrents} torrents", sent / 1000)
}

fn rising(hash: &mut [u8], number: u64) {
    hash[..8].copy_from_slice(&number.to_be_bytes());
}

/// The first bytes, by which a table could find torrents, are the same.
fn colliding(hash: &mut [u8], number: u64) {
    hash[..12].fill(0x99);
    hash[12..].copy_from_slice(&number.to_be_bytes());
}

fn one_host(target: &Target) -> String {
    let leechers = "peers{family=\"ipv4\",role=\"leecher\"}";
    let leechers = || metric(&get(target.tcp(), "/metrics").text(), leechers);
    let (client, before) = (client(1, target.udp()), leechers());
    let request = client.announce_request(&Announce::default().of([9; 20]));
    let sent = flood(target, &client, &request, None, |datagram, number| {
        datagram[96..].copy_from_slice(&(number as u16).to_be_bytes());
    });
    let stored = leechers() - before;
    format!("{} k announces, {stored} peers stored", sent / 1000)
}
