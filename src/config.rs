//! Configuration files: opentracker's as they are, and every long flag as `name value`.
//!
//! A line comes down to the same flags as the command line has, through one table, so that the two can
//! never disagree about what a value may be. Nothing is skipped in silence, as opentracker does with
//! lines that it does not know: a tracker that runs open because its whitelist was misspelled is worse
//! than one that does not start.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The largest file in bytes, so that a device or a disk image that is given by mistake is not read for
/// ever.
const LARGEST: u64 = 1 << 20;

/// The longest line in bytes; opentracker cuts lines at 511.
const LONGEST: usize = 4096;

/// What one of opentracker's keywords means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The flag of this long name.
    Flag(&'static str),
    /// The same, with a path that may lack its first slash.
    Path(&'static str),
    /// `--address` and these, with the port from behind the address.
    Listen(&'static [&'static str]),
    /// An error, for this reason.
    Refused(&'static str),
}

/// The keyword with which opentracker says how many threads serve a UDP socket. A `threads` outdoes it.
pub const UDP_THREADS: &str = "listen.udp.workers";

/// opentracker's keywords. A star stands for any ending.
#[rustfmt::skip]
pub const KEYWORDS: &[(&str, Meaning)] = &[
    ("listen.tcp_udp", Meaning::Listen(&["tcp-port", "udp-port"])),
    ("listen.tcp", Meaning::Listen(&["tcp-port"])),
    ("listen.udp", Meaning::Listen(&["udp-port"])),
    (UDP_THREADS, Meaning::Flag("threads")),
    ("access.whitelist", Meaning::Flag("whitelist")),
    ("access.blacklist", Meaning::Flag("blacklist")),
    ("access.fifo_add", Meaning::Flag("list-add")),
    ("access.fifo_delete", Meaning::Flag("list-remove")),
    ("access.stats", Meaning::Flag("admin")),
    ("access.stats_path", Meaning::Path("stats-path")),
    ("access.proxy", Meaning::Flag("proxy")),
    ("tracker.rootdir", Meaning::Flag("root")),
    ("tracker.user", Meaning::Flag("user")),
    ("tracker.redirect_url", Meaning::Flag("redirect")),
    ("livesync.cluster.listen", Meaning::Flag("sync-multicast")),
    ("livesync.cluster.node_ip", Meaning::Flag("sync-node")),
    ("batchsync.*", Meaning::Refused("there is no sync over HTTP, and opentracker has none any more")),
];

/// A flag that a line sets.
#[derive(Debug)]
pub struct Setting<'a> {
    /// As the file has it.
    pub keyword: &'a str,
    /// The flag's long name; for a keyword that is not opentracker's, the keyword.
    pub flag: &'a str,
    /// Empty where there is none.
    pub value: &'a OsStr,
}

/// The text of a file, up to a bound.
pub fn load(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
    match text.len() as u64 > LARGEST {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

/// Passes on what the text of a file sets, line by line. An error is a line that begins with the file's
/// name and the line's number.
pub fn read(
    shown: &str,
    text: &[u8],
    set: &mut dyn FnMut(&Setting) -> Result<(), String>,
) -> Result<(), String> {
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
        apply(line, set).map_err(|why| format!("{shown}:{number}: {why}"))?;
    }
    Ok(())
}

/// Passes on what one line sets.
fn apply(line: &[u8], set: &mut dyn FnMut(&Setting) -> Result<(), String>) -> Result<(), String> {
    let Some((keyword, value)) = split(line)? else {
        return Ok(());
    };
    let shown = value.to_string_lossy();
    let mut pass = |flag: &str, value: &str| {
        let value = OsStr::new(value);
        set(&Setting {
            keyword,
            flag,
            value,
        })
    };
    match meaning(keyword) {
        None => set(&Setting {
            keyword,
            flag: keyword,
            value,
        }),
        Some(Meaning::Flag(flag)) => set(&Setting {
            keyword,
            flag,
            value,
        }),
        Some(Meaning::Path(flag)) => pass(flag, &format!("/{}", shown.trim_start_matches('/'))),
        Some(Meaning::Listen(flags)) => {
            let (address, port) = value.to_str().and_then(listen).ok_or_else(|| {
                format!("{keyword} '{shown}': wanted is an IP, IP:PORT, [IPv6]:PORT or PORT")
            })?;
            if let Some(address) = address {
                pass("address", address)?;
            }
            flags.iter().try_for_each(|flag| pass(flag, port))
        }
        Some(Meaning::Refused(why)) => Err(format!("{keyword}: {why}")),
    }
}

/// Keyword and value of a line; none of an empty line or a comment.
fn split(line: &[u8]) -> Result<Option<(&str, &OsStr)>, String> {
    if line.len() > LONGEST {
        return Err(format!("the line is longer than {LONGEST} bytes"));
    }
    let line = without_comment(line).trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let is_strange = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    if line.iter().any(is_strange) {
        return Err("control characters: this is no configuration".into());
    }
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (keyword, value) = line.split_at(end.unwrap_or(line.len()));
    let keyword = std::str::from_utf8(keyword).map_err(|_| "the keyword is not text")?;
    Ok(Some((keyword, OsStr::from_bytes(value.trim_ascii_start()))))
}

/// What is before a `#` that stands at the beginning or behind white space.
fn without_comment(line: &[u8]) -> &[u8] {
    let starts = |&at: &usize| {
        let before = at.checked_sub(1).and_then(|at| line.get(at));
        line.get(at) == Some(&b'#') && before.is_none_or(u8::is_ascii_whitespace)
    };
    let end = (0..line.len()).find(starts).unwrap_or(line.len());
    line.get(..end).unwrap_or_default()
}

fn meaning(keyword: &str) -> Option<Meaning> {
    let means = |name: &str| match name.strip_suffix('*') {
        Some(start) => keyword.starts_with(start),
        None => keyword == name,
    };
    let (_, meaning) = KEYWORDS.iter().find(|(name, _)| means(name))?;
    Some(*meaning)
}

/// The port that opentracker takes where an address has none.
const PORT: &str = "6969";

/// Address, if there is one, and port of `IP`, `IP:PORT`, `[IPv6]`, `[IPv6]:PORT` or, only here, `PORT`.
/// Also `IPv6.PORT`, which opentracker knows. Whether they are addresses and ports, the flags know.
fn listen(value: &str) -> Option<(Option<&str>, &str)> {
    let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    if let Some(rest) = value.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port = match port {
            "" => PORT,
            port => port.strip_prefix(':')?,
        };
        return is_v6(address).then_some((Some(address), port));
    }
    if is_v6(value) {
        return Some((Some(value), PORT));
    }
    match (value.rsplit_once(':'), value.rsplit_once('.')) {
        (_, Some((address, port))) if is_v6(address) => Some((Some(address), port)),
        (Some((address, port)), _) if !address.contains(':') => Some((Some(address), port)),
        (None, Some(_)) => Some((Some(value), PORT)),
        (None, None) if !value.is_empty() => Some((None, value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the lines of a text set: flag and value.
    fn settings(text: &[u8]) -> Result<Vec<(String, String)>, String> {
        let mut all = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            apply(line, &mut |setting| {
                let value = setting.value.to_string_lossy().into_owned();
                all.push((setting.flag.to_string(), value));
                Ok(())
            })?;
        }
        Ok(all)
    }

    fn pairs(text: &str) -> Vec<String> {
        let all = settings(text.as_bytes()).unwrap_or_else(|why| panic!("{text}: {why}"));
        all.iter()
            .map(|(flag, value)| format!("{flag} {value}"))
            .collect()
    }

    #[test]
    fn white_space_and_comments_are_no_part_of_a_value() {
        for text in [
            "interval 60",
            "\t interval \t 60 \r\n",
            "# interval 5\n\n   \n#\ninterval 60 # a minute\n",
            "interval 60\r",
        ] {
            assert_eq!(pairs(text), ["interval 60"], "{text:?}");
        }
        assert_eq!(pairs("root /a b#c"), ["root /a b#c"]);
        assert_eq!(pairs("verbose"), ["verbose "]);
        assert_eq!(pairs(""), [""; 0]);
    }

    #[test]
    fn keywords_are_flags() {
        assert_eq!(pairs("tracker.user\tnobody"), ["user nobody"]);
        assert_eq!(pairs("access.fifo_delete /x"), ["list-remove /x"]);
        assert_eq!(pairs("listen.udp.workers 4"), ["threads 4"]);
        for path in ["stats", "/stats"] {
            let line = format!("access.stats_path {path}");
            assert_eq!(pairs(&line), ["stats-path /stats"]);
        }
        assert_eq!(
            pairs("livesync.cluster.listen 10.0.0.1\nlivesync.cluster.node_ip 10.0.0.0/8"),
            ["sync-multicast 10.0.0.1", "sync-node 10.0.0.0/8"]
        );
        let refused = settings(b"batchsync.cluster.admin_ip 10.1.1.1").expect_err("refused");
        assert!(refused.starts_with("batchsync.cluster.admin_ip: "));
        // A keyword that only begins like one is another.
        assert_eq!(pairs("listen.tcpx 1"), ["listen.tcpx 1"]);
    }

    #[test]
    fn addresses_have_ports_or_the_usual_one() {
        for (value, expected) in [
            ("0.0.0.0", Some((Some("0.0.0.0"), "6969"))),
            ("192.0.2.1:80", Some((Some("192.0.2.1"), "80"))),
            ("::", Some((Some("::"), "6969"))),
            ("2001:db8::1", Some((Some("2001:db8::1"), "6969"))),
            ("[2001:db8::1]", Some((Some("2001:db8::1"), "6969"))),
            ("[2001:db8::1]:80", Some((Some("2001:db8::1"), "80"))),
            ("2001:db8::1.80", Some((Some("2001:db8::1"), "80"))),
            ("::ffff:192.0.2.1", Some((Some("::ffff:192.0.2.1"), "6969"))),
            ("80", Some((None, "80"))),
            ("", None),
            ("[::1", None),
            ("[::1]80", None),
            ("[192.0.2.1]:80", None),
            ("2001:db8::x:80", None),
        ] {
            assert_eq!(listen(value), expected, "{value}");
        }
        assert_eq!(
            pairs("listen.tcp_udp [::1]:80"),
            ["address ::1", "tcp-port 80", "udp-port 80"]
        );
        assert_eq!(pairs("listen.udp 7"), ["udp-port 7"]);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let control = Err("control characters: this is no configuration".into());
        assert_eq!(settings(b"interval 6\x000"), control);
        assert_eq!(settings(b"\x7fELF\x02\x01"), control);
        assert_eq!(
            settings(b"\xff\xfe 1"),
            Err("the keyword is not text".into())
        );
        let long = [b'x'; LONGEST + 1];
        assert_eq!(
            settings(&long),
            Err("the line is longer than 4096 bytes".into())
        );
        assert!(settings(&long[1..]).is_ok());
    }
}
