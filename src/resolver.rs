//! The resolver: a process that finds the addresses of names, as that may take long.
//!
//! It is a keeper of its own: the other one has the rights of the start, with which strangers' answers should
//! not be read, and its saves and lines for syslog must not wait for a name server. This one becomes the
//! daemon's user and never enters the root directory, since all that says how names are resolved is outside
//! of it. It is started only where there are names.
//!
//! The two talk over a stream socket. A question is the number of a name, 2 bytes (little-endian); the answer
//! is the number, a length, 2 bytes each, and either a 0 and addresses of 16 bytes, IPv4 mapped into IPv6, or
//! a 1 and why there are none.

use crate::log;
use crate::sys::chunks::as_chunks;
use crate::sys::privileges::{self, Identity};
use crate::sys::{process, sandbox, signals};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Addresses of a name that are told.
const MOST_ADDRESSES: usize = 16;
/// Bytes of an error's text.
const MOST_TEXT: usize = 200;

const HEADER: usize = 4;
const LONGEST: usize = if 16 * MOST_ADDRESSES > MOST_TEXT {
    1 + 16 * MOST_ADDRESSES
} else {
    1 + MOST_TEXT
};

const FOUND: u8 = 0;
const FAILED: u8 = 1;

/// What is known of a name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the name, as at the start.
    pub number: usize,
    /// At least one address, or why there is none.
    pub addresses: Result<Vec<IpAddr>, String>,
}

/// The loop's end of it.
pub struct Resolver {
    /// None once the process is gone.
    link: Option<mio::net::UnixStream>,
    /// Of each name, whether an answer is still to come.
    asked: Vec<bool>,
    /// The answer that is being received, as far as it is.
    input: Vec<u8>,
    is_missed: bool,
}

/// Forks a resolver for these names. There must be no other thread, and the root directory must not have
/// been entered. As root, it becomes this user.
pub fn start(names: Vec<String>, identity: Option<Identity>) -> io::Result<Resolver> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let count = names.len();
    let daemon = std::process::id();
    process::fork(|| {
        // Whoever might be told of an error is the daemon, which sees that the process has ended.
        let _ = become_resolver(&names, &theirs, identity, daemon);
    })?;
    Ok(Resolver::new(ours, count))
}

fn become_resolver(
    names: &[String],
    link: &UnixStream,
    identity: Option<Identity>,
    daemon: u32,
) -> io::Result<()> {
    signals::end_at_once()?;
    process::keep_only(&[link.as_fd()]);
    process::yield_to_others();
    if let Some(identity) = identity {
        privileges::become_user(identity)?;
    }
    // A name server may keep it waiting for longer than the daemon lives.
    process::end_with_parent();
    // It may have ended before that.
    if std::os::unix::process::parent_id() != daemon {
        return Ok(());
    }
    sandbox::enter_with_names()?;
    serve(names, link)
}

impl Resolver {
    fn new(link: UnixStream, count: usize) -> Resolver {
        Resolver {
            link: Some(mio::net::UnixStream::from_std(link)),
            asked: vec![false; count],
            input: Vec::new(),
            is_missed: false,
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.link {
            Some(link) => registry.register(link, token, Interest::READABLE),
            None => Ok(()),
        }
    }

    /// Asks for the addresses of a name, unless that is underway.
    pub fn ask(&mut self, number: usize) {
        let Some(link) = &mut self.link else {
            // Only now: at the end of the daemon it is no news that its helpers have ended.
            if !std::mem::replace(&mut self.is_missed, true) {
                log::error(format_args!(
                    "the process that resolves names has ended: addresses stay as they are"
                ));
            }
            return;
        };
        let (Some(asked), Ok(bytes)) = (self.asked.get_mut(number), u16::try_from(number)) else {
            return;
        };
        // There is room for a question about each name.
        if !*asked && link.write(&bytes.to_le_bytes()).is_ok() {
            *asked = true;
        }
    }

    /// The next answer that has come. To be called until there is none.
    pub fn turn(&mut self) -> Option<Answer> {
        match self.receive() {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => {
                self.link = None;
                None
            }
        }
    }

    fn receive(&mut self) -> io::Result<Option<Answer>> {
        let link = self.link.as_mut().ok_or(ErrorKind::WouldBlock)?;
        loop {
            let wanted = match self.input.first_chunk() {
                Some(&[_, _, low, high]) => HEADER + usize::from(u16::from_le_bytes([low, high])),
                None => HEADER,
            };
            let filled = self.input.len();
            if filled == wanted && filled > HEADER {
                break;
            }
            if wanted <= filled || wanted > HEADER + LONGEST {
                return Err(ErrorKind::InvalidData.into());
            }
            self.input.resize(wanted, 0);
            let read = link.read(&mut self.input[filled..]);
            let count = read.as_ref().map_or(0, |count| *count);
            self.input.truncate(filled + count);
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        let answer = parse(&self.input);
        self.input.clear();
        if let Some(answer) = &answer {
            if let Some(asked) = self.asked.get_mut(answer.number) {
                *asked = false;
            }
        }
        Ok(answer)
    }
}

fn parse(frame: &[u8]) -> Option<Answer> {
    let (&[low, high, _, _, kind], payload) = frame.split_first_chunk()?;
    let addresses = match kind {
        FOUND => {
            let (all, _) = as_chunks::<16>(payload);
            let ip = |octets: &[u8; 16]| Ipv6Addr::from(*octets).to_canonical();
            Ok(all.iter().map(ip).collect())
        }
        _ => Err(String::from_utf8_lossy(payload).into_owned()),
    };
    Some(Answer {
        number: usize::from(u16::from_le_bytes([low, high])),
        addresses,
    })
}

/// Answers until the daemon is gone.
fn serve(names: &[String], mut link: &UnixStream) -> io::Result<()> {
    let mut question = [0; 2];
    loop {
        match link.read_exact(&mut question) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let name = names.get(usize::from(u16::from_le_bytes(question)));
        let payload = look_up(name.map_or("", String::as_str));
        let length = u16::try_from(payload.len()).unwrap_or(0);
        let mut frame = question.to_vec();
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&payload);
        link.write_all(&frame)?;
    }
}

/// The payload of an answer.
fn look_up(name: &str) -> Vec<u8> {
    let mut ips: Vec<IpAddr> = Vec::new();
    let mut payload = match (name, 0).to_socket_addrs() {
        Ok(found) => {
            for address in found {
                if !ips.contains(&address.ip()) {
                    ips.push(address.ip());
                }
            }
            vec![FOUND]
        }
        Err(error) => {
            let mut payload = vec![FAILED];
            payload.extend(error.to_string().bytes().take(MOST_TEXT));
            return payload;
        }
    };
    if ips.is_empty() {
        return [&[FAILED], b"it has no address".as_slice()].concat();
    }
    for ip in ips.into_iter().take(MOST_ADDRESSES) {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        payload.extend_from_slice(&ip.octets());
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A resolver that is a thread.
    fn resolver(names: &[&str]) -> Resolver {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("an option");
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let count = names.len();
        std::thread::spawn(move || serve(&names, &theirs));
        Resolver::new(ours, count)
    }

    fn next(resolver: &mut Resolver) -> Answer {
        let start = Instant::now();
        loop {
            if let Some(answer) = resolver.turn() {
                return answer;
            }
            assert!(start.elapsed() < DEADLINE, "no answer");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn names_have_addresses_or_a_reason() {
        // Longer than any is, so that no name server is asked.
        let unknown = "x".repeat(300);
        let mut resolver = resolver(&["localhost", &unknown, "192.0.2.1"]);
        assert_eq!(resolver.turn(), None);
        for number in [1, 0, 2, 7] {
            resolver.ask(number);
        }
        resolver.ask(2);
        let first = next(&mut resolver);
        assert_eq!(first.number, 1);
        assert!(first.addresses.is_err_and(|why| !why.is_empty()));
        let second = next(&mut resolver);
        assert_eq!(second.number, 0);
        let addresses = second.addresses.expect("is known everywhere");
        assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback));
        let third = next(&mut resolver);
        assert_eq!(
            third.addresses,
            Ok(vec!["192.0.2.1".parse().expect("an address")])
        );
        assert_eq!(resolver.turn(), None, "asked twice, answered once");
        resolver.ask(2);
        assert_eq!(next(&mut resolver).number, 2);
    }

    #[test]
    fn nonsense_and_silence_end_it() {
        for bytes in [&[0, 0, 0, 0][..], &[0, 0, 255, 255, 0], &[]] {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            ours.set_nonblocking(true).expect("an option");
            let mut resolver = Resolver::new(ours, 1);
            theirs.write_all(bytes).expect("is sent");
            drop(theirs);
            assert_eq!(resolver.turn(), None);
            assert!(resolver.link.is_none());
            resolver.ask(0);
            assert_eq!(resolver.turn(), None);
        }
    }
}
