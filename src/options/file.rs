//! Configuration files: opentracker's as they are, and every long flag as `name value`.
//!
//! A line sets the same flags as the command line does, through the same table, so that both accept the same values.
//! Nothing is skipped silently, as opentracker skips lines that it does not know: a tracker that runs open because its
//! whitelist was misspelled is worse than one that does not start.

use super::Options;
use super::flags::{self, FLAGS, Field, Flag, MAX_THREADS};
use super::similar::similar;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// opentracker cuts lines at 511.
const MAX_LINE_BYTES: usize = 4096;

/// The meaning of one of opentracker's keywords.
pub enum Meaning {
    /// The same as these flags, by their long names.
    Flags(&'static [&'static str]),
    /// A setting that only files have.
    Own(Field),
}

use Meaning::{Flags, Own};

/// opentracker's keywords. A star stands for any ending.
#[rustfmt::skip]
pub static KEYWORDS: &[(&str, Meaning)] = &[
    ("listen.tcp_udp", Flags(&["tcp-port", "udp-port"])),
    ("listen.tcp", Flags(&["tcp-port"])),
    ("listen.udp", Flags(&["udp-port"])),
    ("listen.udp.workers", Own(Field::Number(|o| &mut o.udp_workers, 0, MAX_THREADS))),
    ("access.whitelist", Flags(&["whitelist"])),
    ("access.blacklist", Flags(&["blacklist"])),
    ("access.fifo_add", Flags(&["list-add"])),
    ("access.fifo_delete", Flags(&["list-remove"])),
    ("access.stats", Flags(&["admin"])),
    ("access.stats_path", Flags(&["stats-path"])),
    ("access.proxy", Flags(&["proxy"])),
    ("tracker.rootdir", Flags(&["root"])),
    ("tracker.user", Flags(&["user"])),
    ("tracker.redirect_url", Flags(&["redirect"])),
    ("livesync.cluster.listen", Flags(&["sync-multicast"])),
    ("livesync.cluster.node_ip", Flags(&["sync-node"])),
    ("batchsync.*", Own(Field::Absent("sync over HTTP is not supported; opentracker has dropped it too"))),
];

/// Sets what a file says, or returns the error of reading it.
pub(super) fn apply(
    path: &OsStr,
    text: Result<Vec<u8>, String>,
    options: &mut Options,
) -> Result<(), String> {
    let shown = path.to_string_lossy();
    let text = text.map_err(|why| format!("-f/--config '{shown}': {why}"))?;
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
        let place = format!("{shown}:{number}");
        apply_line(line, &place, options).map_err(|why| format!("{place}: {why}"))?;
    }
    options.end()
}

/// Sets what a line says.
fn apply_line(line: &[u8], place: &str, options: &mut Options) -> Result<(), String> {
    let Some((keyword, value)) = split(line)? else {
        return Ok(());
    };
    let is_it = |name: &str| match name.strip_suffix('*') {
        Some(start) => keyword.starts_with(start),
        None => keyword == name,
    };
    if let Some((name, value)) = around_sign(keyword, value) {
        return Err(format!("unexpected '='; write '{name} {value}'"));
    }
    let mut set = |flag| {
        set(keyword, flag, value, place, options)?;
        options.warn(&format!("{place}: {keyword}"));
        Ok(())
    };
    match KEYWORDS.iter().find(|(name, _)| is_it(name)) {
        None => set(keyword),
        Some((_, Flags(flags))) => flags.iter().try_for_each(|flag| set(flag)),
        Some((_, Own(field))) => field
            .set(options, value)
            .map_err(|why| format!("{keyword}: {why}")),
    }
}

/// The keyword that opentracker has for one flag alone.
pub(super) fn keyword_of(flag: &str) -> Option<&'static str> {
    let of_flag = |meaning: &Meaning| matches!(meaning, Flags([only]) if *only == flag);
    let found = KEYWORDS.iter().find(|(_, meaning)| of_flag(meaning));
    found.map(|(name, _)| *name)
}

/// Keyword and value of a line that has an equals sign between them.
fn around_sign<'a>(keyword: &'a str, value: &'a OsStr) -> Option<(&'a str, String)> {
    let value = value.to_string_lossy();
    let (name, rest) = match keyword.split_once('=') {
        Some((name, "")) => (name, value.into_owned()),
        Some((name, rest)) => (name, [rest, " ", &value].concat()),
        None => {
            let rest = value.strip_prefix('=')?;
            let is_sign = rest.is_empty() || rest.starts_with([' ', '\t']);
            (is_sign.then_some(keyword)?, rest.to_owned())
        }
    };
    let is_known = flags::find(name).is_some() || KEYWORDS.iter().any(|(known, _)| *known == name);
    is_known.then(|| (name, rest.trim().to_owned()))
}

fn unknown(keyword: &str) -> String {
    let flags = FLAGS.iter().filter(|flag| flag.is_keyword());
    let names = flags
        .map(Flag::long)
        .chain(KEYWORDS.iter().map(|(name, _)| *name));
    match similar(keyword, names) {
        Some(meant) => format!("unknown keyword '{keyword}'; did you mean '{meant}'?"),
        None => format!("unknown keyword '{keyword}'; announced.conf(5) lists all keywords"),
    }
}

/// Sets a flag, given by its long name.
fn set(
    keyword: &str,
    flag: &str,
    value: &OsStr,
    place: &str,
    options: &mut Options,
) -> Result<(), String> {
    let flag = flags::find(flag).ok_or_else(|| unknown(keyword))?;
    let text = value.to_string_lossy();
    options.origins.add(flag, place, keyword, &text);
    let error = match (&flag.field, flag.value()) {
        (Field::CommandLine(_), _) => " is allowed only on the command line".into(),
        (_, "") if !value.is_empty() => format!(": unexpected value '{text}'"),
        (_, name) if !name.is_empty() && value.is_empty() => format!(" requires a value: {name}"),
        (field, _) => match field.set(options, value) {
            Ok(()) => return Ok(()),
            Err(why) => format!(": {why}"),
        },
    };
    Err(format!("{keyword}{error}"))
}

/// Keyword and value of a line; none of an empty line or a comment.
fn split(line: &[u8]) -> Result<Option<(&str, &OsStr)>, String> {
    if line.len() > MAX_LINE_BYTES {
        return Err(format!("the line is longer than {MAX_LINE_BYTES} bytes"));
    }
    let line = without_comment(line).trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let is_odd = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    if line.iter().any(is_odd) {
        return Err("control characters: not a configuration file".into());
    }
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (keyword, value) = line.split_at(end.unwrap_or(line.len()));
    let keyword = std::str::from_utf8(keyword).map_err(|_| "the keyword is not UTF-8")?;
    Ok(Some((keyword, OsStr::from_bytes(value.trim_ascii_start()))))
}

/// A comment begins with a `#` at the beginning of a line or behind white space.
fn without_comment(line: &[u8]) -> &[u8] {
    let mut before = b' ';
    let end = line.iter().position(|&byte| {
        let before = std::mem::replace(&mut before, byte);
        byte == b'#' && before.is_ascii_whitespace()
    });
    line.get(..end.unwrap_or(line.len())).unwrap_or_default()
}
