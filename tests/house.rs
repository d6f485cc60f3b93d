//! The rules of the house, held by reading the source: which room may use which, and what a file may hold.
//!
//! The rooms are the modules of `lib.rs`, in dependency order: each uses only those after it. A rule that only
//! reviewers know is broken within a month, so each is a test. The parsing relies on rustfmt: an item's closing brace
//! stands in the column where the item begins.

#![forbid(unsafe_code)]

use announced::options::FLAGS;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINE: usize = 120;
const MAX_FUNCTION_LINES: usize = 60;

/// Files in which nothing may panic, since bytes of strangers pass through them.
const WIRE: [&str; 6] = [
    "src/cluster/",
    "src/http/",
    "src/protocol/",
    "src/responder.rs",
    "src/tracker/",
    "src/udp/",
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The lines before the test module at the end of the file, numbered from 1; none of a file of tests.
    fn program(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("tests.rs") || self.path.contains("/tests/");
        let lines = (1..).zip(self.text.lines());
        lines.take_while(move |(_, line)| !is_test && !line.starts_with("mod tests {"))
    }

    /// The module path of the file, `["http", "proxy"]` for `src/http/proxy/mod.rs`.
    fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<&str> = path.split('/').collect();
        if ["mod", "lib", "main"].contains(module.last().expect("a name")) {
            module.pop();
        }
        module
    }
}

fn sources(root: &str) -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&home.join(root), &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let path = path
            .strip_prefix(home)
            .expect("inside")
            .display()
            .to_string();
        Source { path, text }
    };
    found.into_iter().map(read).collect()
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The rooms in the order of `lib.rs`.
fn rooms() -> Vec<String> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(home.join("src/lib.rs")).expect("the map");
    let name = |line: &str| {
        Some(
            line.strip_prefix("pub mod ")?
                .strip_suffix(';')?
                .to_string(),
        )
    };
    map.lines().filter_map(name).collect()
}

/// The rooms that a file of a room names, with the lines: after `crate::`, or after as many `super::` as lead out of
/// its own. A tree of several rooms after `crate::` counts as the room `{`.
fn rooms_named<'a>(source: &'a Source, rooms: &[String]) -> Vec<(&'a str, usize)> {
    let out = "super::".repeat(source.module().len());
    let code = |(line, _): &(&str, usize)| !line.trim_start().starts_with("//");
    let mut named = Vec::new();
    for (line, number) in source.text.lines().zip(1..).filter(code) {
        let after = line
            .split("crate::")
            .chain(line.split(&out).skip(1))
            .skip(1);
        named.extend(after.map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            (&rest[..end.unwrap_or(rest.len())], number)
        }));
        named.extend(line.contains("crate::{").then_some(("{", number)));
    }
    named.retain(|(name, _)| *name == "{" || rooms.iter().any(|room| room == name));
    named
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let rooms = rooms();
    let rank = |name: &str| rooms.iter().position(|room| room == name);
    let (mut faults, mut count) = (Vec::new(), 0);
    for source in sources("src") {
        let module = source.module();
        let Some(own) = module.first().filter(|room| rank(room).is_some()) else {
            continue;
        };
        for (other, number) in rooms_named(&source, &rooms) {
            count += 1;
            if rank(other) < rank(own) {
                let path = &source.path;
                faults.push(format!(
                    "{path}:{number}: uses {other}, which is not below {own}"
                ));
            }
        }
    }
    assert!(count > 100, "only {count} uses were read");
    assert_none(faults);
}

#[test]
fn uses_are_read_in_code_and_not_in_comments() {
    let source = Source {
        path: "src/base/text.rs".into(),
        text: "use crate::sys::b;\n// crate::http\nlet x = super::super::udp::h(crate::{a});"
            .into(),
    };
    let rooms = ["sys", "http", "udp"].map(String::from);
    assert_eq!(
        rooms_named(&source, &rooms),
        [("sys", 1), ("udp", 3), ("{", 3)]
    );
}

#[test]
fn every_room_is_in_the_map_and_every_file_in_a_module() {
    let mut faults = Vec::new();
    let all = sources("src");
    let roots = ["src/lib.rs", "src/main.rs"];
    for source in all.iter().filter(|source| !roots.contains(&&*source.path)) {
        let path = &source.path;
        let module = source.module();
        let (name, parent) = module.split_last().expect("a name");
        let declares = |other: &&Source| {
            let declaration = format!("mod {name};");
            let path = format!("#[path = \"{name}.rs\"]");
            let declares = |line: &str| {
                let line = line.trim_start();
                line.trim_start_matches("pub ") == declaration || line == path
            };
            other.module() == parent
                && other.path != "src/main.rs"
                && other.text.lines().any(declares)
        };
        match all.iter().find(declares) {
            None => faults.push(format!("{path}: no module names it")),
            Some(other) => {
                let is_test = other.text.contains(&format!("#[cfg(test)]\nmod {name};\n"));
                if is_test && !name.ends_with("tests") {
                    faults.push(format!("{path}: a test module is named tests or …_tests"));
                }
            }
        }
        let beside = path.trim_end_matches(".rs").to_owned() + "/mod.rs";
        if all.iter().any(|other| other.path == beside) {
            faults.push(format!("{path}: is beside {beside}"));
        }
    }
    assert_none(faults);
}

#[test]
fn files_begin_by_saying_what_they_are_for() {
    let headless = |source: &Source| !source.text.starts_with("//! ");
    let all = sources("src").into_iter().chain(sources("tests"));
    assert_none(all.filter(headless).map(|source| source.path).collect());
}

/// A line of a report in columns, as a test expects it.
fn is_report(line: &str) -> bool {
    line.matches("  ").count() > 20 && !line.starts_with(' ')
}

#[test]
fn lines_are_at_most_120_characters_long() {
    let mut faults = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        let lines = source.text.lines().zip(1..);
        let is_long = |line: &str| line.chars().count() > MAX_LINE && !is_report(line);
        for (_, number) in lines.filter(|(line, _)| is_long(line)) {
            faults.push(format!("{}:{number}", source.path));
        }
    }
    assert_none(faults);
}

#[test]
fn functions_are_at_most_60_lines_long() {
    let mut faults = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        let mut open: Option<(usize, usize, usize)> = None;
        for (line, number) in source.text.lines().zip(1..) {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            open = match open {
                None if is_function(code) && !code.ends_with(['}', ';']) => {
                    Some((indent, number, 1))
                }
                Some((column, start, lines)) if indent == column && code == "}" => {
                    if lines >= MAX_FUNCTION_LINES {
                        faults.push(format!("{}:{start}: {} lines", source.path, lines + 1));
                    }
                    None
                }
                // A row of a table.
                Some(open) if code.starts_with(['(', '[', '"']) || code.starts_with("b\"") => {
                    Some(open)
                }
                Some((column, start, lines)) => Some((column, start, lines + 1)),
                None => None,
            };
        }
    }
    assert_none(faults);
}

fn is_function(code: &str) -> bool {
    let before = "pub pub(crate) pub(super) const unsafe extern \"C\"";
    let mut words = code.split_whitespace();
    words.find(|word| !before.split(' ').any(|other| other == *word)) == Some("fn")
}

#[test]
fn banned_items_stay_out() {
    const NO_ATOMICS: &str = "routers have no 64-bit atomics";
    const NO_PANIC: &str = "a panic on a path of outside data";
    let mut faults = Vec::new();
    for source in sources("src") {
        let is_wire = WIRE.iter().any(|wire| source.path.starts_with(wire));
        let is_system = source.path.starts_with("src/sys/");
        for (number, line) in source.program() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            let after = source.text.lines().nth(number).unwrap_or("");
            let tables = ["const ", "static ", "! {"];
            let is_table = tables.iter().any(|word| after.contains(word));
            let bans = [
                (true, "AtomicU64", NO_ATOMICS),
                (true, "AtomicI64", NO_ATOMICS),
                (
                    !is_system,
                    "target_os",
                    "differences between systems are in sys/",
                ),
                (!is_system, "unsafe ", "unsafe is in sys/"),
                (is_wire, ".unwrap()", NO_PANIC),
                (is_wire, ".expect(", NO_PANIC),
                (is_wire, "panic!", NO_PANIC),
                (is_wire, "unreachable!", NO_PANIC),
                (true, "todo!", "unfinished"),
                (
                    !is_table,
                    "rustfmt::skip",
                    "only tables are laid out by hand",
                ),
            ];
            let is_here = |ban: &&(bool, &str, &str)| ban.0 && code.contains(ban.1);
            for (_, item, why) in bans.iter().filter(is_here) {
                faults.push(format!("{}:{number}: {item}: {why}", source.path));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn errors_and_comments_name_flags_that_exist() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for source in sources("src") {
        for (number, line) in source.program() {
            for name in line.split("--").skip(1) {
                let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
                let name = &name[..name.find(|c| !is_part(c)).unwrap_or(name.len())];
                let is_flag = name.starts_with(|c: char| c.is_ascii_lowercase());
                count += usize::from(is_flag);
                if is_flag && !FLAGS.iter().any(|flag| flag.long() == name) {
                    faults.push(format!("{}:{number}: --{name}", source.path));
                }
            }
        }
    }
    assert!(count > 2 * FLAGS.len(), "{count}");
    assert_none(faults);
}
