//! The manual pages name all that the program has, and nothing else: flags, keywords, modes of statistics, metrics.

mod common;

use announced::options::{FLAGS, Flag, file::KEYWORDS};
use announced::stats::modes::MODES;
use common::http::get;
use common::{Daemon, Directory, run, wait_for};
use std::collections::BTreeSet;

fn page(name: &str) -> String {
    let path = format!("{}/man/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rest of each line of a page that begins so, up to a separator.
fn items<'a>(page: &'a str, start: &str) -> Vec<&'a str> {
    let item = |line: &'a str| line.strip_prefix(start);
    page.lines().filter_map(item).collect()
}

/// The first word of each of these.
fn first_words<'a>(page: &'a str, start: &str) -> Vec<&'a str> {
    let items = items(page, start).into_iter();
    items.filter_map(|item| item.split(' ').next()).collect()
}

/// `i , Fl -address Ar IP`
fn item(flag: &Flag) -> String {
    let short = flag
        .short()
        .map_or(String::new(), |short| format!("{short} , Fl "));
    let value = match flag.value() {
        "" => String::new(),
        value => format!(" Ar {value}"),
    };
    format!("{short}-{}{value}", flag.long())
}

#[test]
fn help_and_announced_8_have_all_flags() {
    let (_, help, _) = run(&["--help"]);
    let text = page("announced.8");
    let documented: BTreeSet<&str> = items(&text, ".It Fl ").into_iter().collect();
    let expected: Vec<String> = FLAGS.iter().map(item).collect();
    assert_eq!(documented, expected.iter().map(String::as_str).collect());
    for flag in FLAGS {
        let long = format!("--{}", flag.long());
        assert!(help.contains(&long), "{long}");
        assert!(help.contains(flag.help), "{}", flag.help);
    }
}

#[test]
fn announced_conf_5_has_all_keywords_with_their_defaults() {
    const NOT_IN_FILES: [&str; 6] = ["config", "check", "health", "help", "make-key", "version"];
    let text = page("announced.conf.5");
    let (_, keywords) = text.split_once(".Sh KEYWORDS").expect("a section");
    let documented = first_words(keywords, ".It Cm ");
    let flags = FLAGS.iter().map(|flag| flag.long());
    let expected: Vec<&str> = flags.filter(|long| !NOT_IN_FILES.contains(long)).collect();
    let [documented, expected] = [documented, expected].map(BTreeSet::from_iter);
    assert_eq!(documented, expected);
    for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
        let (long, default) = (flag.long(), flag.default);
        let row = format!(".It Cm {long} Ta {} Ta {default}", flag.value());
        assert!(keywords.lines().any(|line| line == row), "{row}");
    }
}

#[test]
fn announced_opentracker_7_has_all_keywords_of_opentracker() {
    let text = page("announced-opentracker.7");
    let documented = first_words(&text, ".It Cm ");
    let expected: Vec<&str> = KEYWORDS.iter().map(|(name, _)| *name).collect();
    assert_eq!(documented, expected);
}

#[test]
fn announced_stats_5_has_all_modes() {
    let text = page("announced-stats.5");
    let (_, rest) = text.split_once(".Sh MODES").expect("a section");
    let (modes, _) = rest.split_once("\n.Sh ").expect("another section");
    let items = items(modes, ".It Cm ");
    let documented: BTreeSet<&str> = items.iter().flat_map(|item| item.split(" , ")).collect();
    let daemon = Daemon::start(&[]);
    let is_served = |name: &&str| get(daemon.tcp4(), &format!("/stats?mode={name}")).status == 200;
    let served: BTreeSet<&str> = MODES
        .iter()
        .map(|mode| mode.name)
        .filter(is_served)
        .collect();
    assert_eq!(documented, served);
}

#[test]
fn announced_stats_5_has_all_metrics() {
    let directory = Directory::new("pages");
    let key = directory.file("key");
    assert_eq!(run(&["--make-key", &key]).0, Some(0));
    let shared = format!("--cluster-listen 127.0.0.1:0 --cluster-key {key} --interval 1");
    let shared: Vec<&str> = shared.split(' ').collect();
    let other = Daemon::start(&shared);
    let peer = other.cluster().to_string();
    let (list, state) = (
        directory.write("list", "aa".repeat(20)),
        directory.file("state"),
    );
    let own = ["--cluster-peer", &peer, "-s", "127.0.0.1:9696", "-j", "2"];
    let own = [&own[..], &["-b", &list, "--state", &state]].concat();
    let daemon = Daemon::start(&[&shared[..], &own].concat());
    let metrics = wait_for("a walk of the other node", || {
        let metrics = get(daemon.tcp4(), "/metrics").text();
        let has_walk = metrics.contains("announced_cluster_walk_age_seconds{");
        has_walk.then_some(metrics)
    });
    let served = BTreeSet::from_iter(first_words(&metrics, "# HELP "));
    let text = page("announced-stats.5");
    let documented: BTreeSet<&str> = items(&text, ".It Li ")
        .into_iter()
        .flat_map(|item| item.split([' ', ',']))
        .filter(|word| word.starts_with("announced_"))
        .collect();
    assert_eq!(documented, served);
}
