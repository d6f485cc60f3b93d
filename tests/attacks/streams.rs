//! Attacks over TCP: many connections, slow ones, and those that send or take too much or too little.

use super::common::http;
use super::measure::{Attack, Target, attack, hash};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

pub const ATTACKS: &[Attack] = &[
    attack("20,000 idle connections", "", idle),
    attack("2,000 heads, a byte a second each", "", slow_heads),
    attack("pipelined announces", "", pipelined),
    attack("clients that do not read", "", deaf),
    attack(
        "resets in the middle of replies",
        "--full-scrape open",
        resets,
    ),
    attack("full scrapes, one address", "", |target| {
        full_scrapes(target, false)
    }),
    attack(
        "full scrapes without limits, gzip",
        "--full-scrape open",
        |target| full_scrapes(target, true),
    ),
];

/// A connection from the address of a number, since one address has too few ports.
fn connect(number: usize, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    let ip = Ipv4Addr::new(127, 0, 10, 1 + (number / 10_000) as u8);
    socket.bind(&SocketAddr::from((ip, 0)).into()).ok()?;
    socket
        .connect_timeout(&to.into(), Duration::from_secs(1))
        .ok()?;
    Some(socket.into())
}

fn announce(number: u64) -> String {
    let hash: String = hash(number)
        .iter()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    format!("GET /announce?info_hash={hash}&port=6881&left=1 HTTP/1.1\r\nHost: tracker\r\n\r\n")
}

/// The limit of this process on open descriptors. Where it could not be raised, it is below that of the daemon.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(3));
    limit.and_then(|limit| limit.parse().ok()).unwrap_or(1024)
}

fn idle(target: &Target) -> String {
    let mut all = Vec::new();
    // Some are for the measurement.
    let count = 20_000.min(descriptors() - 100);
    while all.len() < count && !target.is_over() {
        match connect(all.len(), target.tcp()) {
            Some(stream) => all.push(stream),
            None => break,
        }
    }
    while !target.is_over() {
        thread::sleep(Duration::from_millis(20));
    }
    format!("{} connections", all.len())
}

fn slow_heads(target: &Target) -> String {
    let mut all: Vec<_> = (0..2000)
        .filter_map(|number| connect(number, target.tcp()))
        .collect();
    let head = announce(1);
    target.repeat(|count| {
        let byte = head.as_bytes()[count as usize % 40];
        all.iter_mut()
            .for_each(|stream| drop(stream.write(&[byte])));
        thread::sleep(Duration::from_secs(1).min(Duration::from_millis(250) * 4));
    });
    format!("{} connections", all.len())
}

/// Requests that are always more than can be answered, and replies that are read as fast.
fn pipelined(target: &Target) -> String {
    let requests: String = (0..64).map(|number| announce(1 << 20 | number)).collect();
    let mut streams: Vec<_> = (0..8)
        .filter_map(|number| connect(number, target.tcp()))
        .collect();
    let streams = &mut streams;
    streams
        .iter()
        .for_each(|stream| stream.set_nonblocking(true).expect("an option"));
    let (mut offsets, mut received) = (vec![0; streams.len()], 0);
    let mut buffer = vec![0; 1 << 16];
    target.repeat(|_| {
        for (stream, offset) in streams.iter_mut().zip(&mut offsets) {
            if let Ok(written) = stream.write(&requests.as_bytes()[*offset..]) {
                *offset = (*offset + written) % requests.len();
            }
            received += stream.read(&mut buffer).unwrap_or(0);
        }
    });
    format!("{:.1} MB of replies", received as f64 / 1e6)
}

fn deaf(target: &Target) -> String {
    let requests: String = (0..64).map(|number| announce(1 << 21 | number)).collect();
    let mut streams: Vec<_> = (0..500)
        .filter_map(|number| connect(number, target.tcp()))
        .collect();
    streams
        .iter()
        .for_each(|stream| stream.set_nonblocking(true).expect("an option"));
    let mut written = 0;
    target.repeat(|_| {
        for stream in &mut streams {
            written += stream.write(requests.as_bytes()).unwrap_or(0);
        }
        thread::sleep(Duration::from_millis(5));
    });
    format!(
        "{} connections, {:.1} MB of requests",
        streams.len(),
        written as f64 / 1e6
    )
}

fn resets(target: &Target) -> String {
    let count = target.repeat(|_| {
        let Some(mut stream) = connect(0, target.tcp()) else {
            return;
        };
        let _ = stream.write_all(b"GET /scrape HTTP/1.1\r\n\r\n");
        let _ = stream.read(&mut [0; 1000]);
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    format!("{count} connections")
}

fn full_scrapes(target: &Target, is_gzip: bool) -> String {
    let encoding = if is_gzip {
        "Accept-Encoding: gzip\r\n"
    } else {
        ""
    };
    let request = format!("GET /scrape HTTP/1.1\r\nConnection: close\r\n{encoding}\r\n");
    let request = &request;
    let whole: u64 = thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let mut whole = 0;
                    target.repeat(|_| {
                        let reply = http::Client::new(target.tcp()).request(request);
                        whole += u64::from(reply.status == 200);
                    });
                    whole
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"))
            .sum()
    });
    format!("{whole} whole ones")
}
