//! Attacks on the port for other nodes, without the key and with it.

use super::common::http::{get, metric};
use super::common::{Directory, run};
use super::measure::{Attack, Target, attack, hash};
use announced::cluster::frame::{HELLO_BYTES, Hello, Keys, Session};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NODE: &str =
    "--cluster-listen 127.0.0.1:0 --cluster-key DIR/key --max-torrents 200000 --max-peers 400000";

const fn node(name: &'static str, run: fn(&Target) -> String) -> Attack {
    let prepare = make_key;
    Attack {
        prepare,
        ..attack(name, NODE, run)
    }
}

pub const ATTACKS: &[Attack] = &[
    node("forged bytes between nodes", forged),
    node("replayed bytes between nodes", replayed),
    node("floods of handshakes", handshakes),
    node("a node that invents peers", inventor),
    node("a node that lies about its clocks", liar),
    node("a node that asks for everything", asker),
];

fn make_key(directory: &Directory) {
    assert_eq!(run(&["--make-key", &directory.file("key")]).0, Some(0));
}

fn connect(target: &Target) -> Option<TcpStream> {
    let stream = TcpStream::connect(target.daemon.cluster()).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .ok()?;
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .ok()?;
    Some(stream)
}

fn hello(id: u64, uptime_ms: u64) -> [u8; HELLO_BYTES] {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("is later");
    let hello = Hello {
        peer_timeout: 2700,
        max_per_host: 128,
        port: 1,
        is_whole: true,
        id,
        nonce: [since.as_nanos() as u64, id],
        clock_ms: 64 * 56_250 + uptime_ms,
        uptime_ms,
    };
    hello.write()
}

/// A connection that has shown the key, and the first frames of this side.
struct Rogue {
    stream: TcpStream,
    session: Session,
}

impl Rogue {
    fn new(target: &Target, id: u64, uptime_ms: u64) -> Option<Rogue> {
        let secret = std::fs::read(target.directory.file("key")).ok()?;
        let mut stream = connect(target)?;
        let own = hello(id, uptime_ms);
        stream.write_all(&own).ok()?;
        let mut theirs = [0; HELLO_BYTES];
        stream.read_exact(&mut theirs).ok()?;
        let session = Session::new(&Keys::new(&secret), true, &own, &theirs);
        let mut rogue = Rogue { stream, session };
        rogue.ask(8)?;
        Some(rogue)
    }

    fn send(&mut self, content: &[u8]) -> Option<()> {
        let mut frame = Vec::new();
        self.session.seal(content, &mut frame);
        self.stream.write_all(&frame).ok()
    }

    /// Asks for records: all of them with flags 7, none with 8.
    fn ask(&mut self, flags: u64) -> Option<()> {
        let numbers = [0, 0, flags];
        let bytes = numbers.iter().flat_map(|number| number.to_be_bytes());
        self.send(&std::iter::once(1).chain(bytes).collect::<Vec<_>>())
    }
}

fn forged(target: &Target) -> String {
    let mut junk = vec![0x5a; 1 << 16];
    let count = target.repeat(|count| {
        junk[..HELLO_BYTES].copy_from_slice(&hello(count, count));
        if let Some(mut stream) = connect(target) {
            let start = if count % 2 == 0 { 0 } else { HELLO_BYTES };
            let _ = stream.write_all(&junk[start..]);
        }
    });
    format!("{count} connections")
}

/// What a node with the key has sent, again and again.
fn replayed(target: &Target) -> String {
    let secret = std::fs::read(target.directory.file("key")).expect("was made");
    let own = hello(1, 1);
    let mut session = Session::new(&Keys::new(&secret), true, &own, &own);
    let mut tape = own.to_vec();
    (0..100).for_each(|_| session.seal(&[1; 25], &mut tape));
    let count = target.repeat(|_| {
        if let Some(mut stream) = connect(target) {
            let _ = stream.write_all(&tape);
            let _ = stream.read(&mut [0; 200]);
        }
    });
    let metrics = get(target.tcp(), "/metrics").text();
    let wrong = metric(
        &metrics,
        "cluster_failed_handshakes_total{reason=\"wrong_key\"}",
    );
    format!("{count} connections, {wrong} with a wrong key")
}

fn handshakes(target: &Target) -> String {
    let mut open = Vec::new();
    let count = target.repeat(|count| {
        if let Some(mut stream) = connect(target) {
            let _ = stream.write_all(&hello(count, count));
            open.push(stream);
        }
        if open.len() > 2000 {
            open.clear();
        }
    });
    format!("{count} handshakes")
}

/// Records of seeders of ever other torrents.
fn inventor(target: &Target) -> String {
    let mut rogue = Rogue::new(target, 1, 1);
    let mut number = 1 << 32;
    target.repeat(|_| {
        let mut content = vec![3];
        content.extend_from_slice(&64_u64.to_be_bytes());
        content.extend_from_slice(&0_u64.to_be_bytes());
        for _ in 0..400 {
            content.push(0);
            content.extend_from_slice(&hash(number));
            content.extend_from_slice(&[2 | 0x40, 10, 0, 0, 1, 9, 9]);
            number += 1;
        }
        let is_sent = rogue.as_mut().and_then(|rogue| rogue.send(&content));
        if is_sent.is_none() {
            rogue = Rogue::new(target, 1, 1);
        }
    });
    let torrents = metric(&get(target.tcp(), "/metrics").text(), "torrents");
    format!(
        "{} k records, {torrents} torrents",
        (number - (1 << 32)) / 1000
    )
}

/// Its uptime and the phase of its units differ with each connection. Peers must stay.
fn liar(target: &Target) -> String {
    let before = metric(&get(target.tcp(), "/metrics").text(), "torrents");
    let count = target.repeat(|count| {
        let id = (1 << 40) - count / 2;
        drop(Rogue::new(target, id, count * 12_345_678));
    });
    let after = metric(&get(target.tcp(), "/metrics").text(), "torrents");
    format!("{count} links, {before} torrents before and {after} after")
}

/// Asks for the whole table, and reads it.
fn asker(target: &Target) -> String {
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    let mut rogue = Rogue::new(target, 1, 1);
    target.repeat(|_| {
        let asked = rogue.as_mut().and_then(|rogue| {
            rogue.ask(7)?;
            rogue.stream.read(&mut buffer).ok()
        });
        match asked {
            Some(count @ 1..) => received += count,
            _ => rogue = Rogue::new(target, 1, 1),
        }
    });
    format!("{:.1} MB", received as f64 / 1e6)
}
