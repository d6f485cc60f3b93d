//! A configuration file and, behind a zero byte, arguments with zero bytes between them.

use announced::base::log;
use announced::options::{Options, Source};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

fn parse(text: &[u8], arguments: &[&[u8]]) -> Result<Options, String> {
    let file = [&b"-f"[..], b"announced.conf"];
    let arguments = file.iter().chain(arguments);
    let arguments: Vec<OsString> = arguments.map(|it| OsStr::from_bytes(it).into()).collect();
    // Its files are not read: the text is the first one's, and others are empty.
    Source::new(arguments).parse_again(vec![text.to_vec()])
}

pub fn run(data: &[u8]) {
    // Warnings.
    log::use_stderr(false);
    let mut parts = data.split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let arguments: Vec<&[u8]> = parts.collect();
    // A line of a file cannot hold every path that an argument can.
    let is_odd = |byte: &u8| byte.is_ascii_control() || b" #".contains(byte);
    let fits = !arguments.iter().any(|argument| argument.iter().any(is_odd));
    let mut options = match parse(text, &arguments) {
        Ok(options) => options,
        Err(why) => return assert!(!why.is_empty()),
    };
    assert!(!options.sockets().is_empty() && options.threads() > 0);
    assert!(options.peer_timeout() >= options.interval);
    options.addresses();
    // The file that `-n` prints says the same.
    for is_full in [false, true].into_iter().filter(|_| fits) {
        let file = options.to_file(is_full);
        let again = parse(&file, &[]);
        let shown = String::from_utf8_lossy(&file);
        let mut again = again.unwrap_or_else(|why| panic!("{why}\n{shown}"));
        assert_eq!(again.to_file(is_full), file, "{shown}");
        for is_live in [false, true] {
            assert!(options.changes(&mut again, is_live).is_empty(), "{shown}");
        }
    }
    let mut same = options.clone();
    assert!(options.changes(&mut same, true).is_empty());
    assert!(options.reloaded(&mut same) == options);
}
