//! The rules of the house, held by reading the source: which room may use which, and what a file may hold.
//!
//! The rooms are the modules of `lib.rs`, in dependency order: each uses only those after it. A rule that only
//! reviewers know is broken within a month, so each is a test. The parsing is no more than rustfmt's output needs:
//! an item's closing brace stands in the column where the item begins.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINE: usize = 120;
const MAX_FUNCTION_LINES: usize = 60;

/// Files with a panic on no path, since strangers' bytes pass through them.
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
        let lines = self
            .text
            .lines()
            .zip(1..)
            .map(|(line, number)| (number, line));
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
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).expect("UTF-8"),
        path: path
            .strip_prefix(home)
            .expect("inside")
            .display()
            .to_string(),
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
    let names = map
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_string).collect()
}

/// Every path that begins with `crate`, `super` or `announced`, as segments; `use` trees are spelt out.
fn paths(text: &str) -> Vec<Vec<String>> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("::") {
        let start = code[..at]
            .rfind(|c: char| !is_name(c))
            .map_or(0, |before| before + 1);
        let is_first = !code[..start].ends_with("::");
        if is_first && ["crate", "super", "announced"].contains(&&code[start..at]) {
            spell_out(&code[start..], &mut Vec::new(), &mut found);
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Reads one path or tree of paths after a prefix, and returns the text behind it.
fn spell_out<'a>(
    mut text: &'a str,
    prefix: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> &'a str {
    let depth = prefix.len();
    loop {
        text = text.trim_start();
        if let Some(mut rest) = text.strip_prefix('{') {
            while !rest.trim_start().starts_with('}') {
                rest = spell_out(rest, prefix, found).trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
            text = rest.trim_start().get(1..).unwrap_or("");
            break;
        }
        let end = text.find(|c: char| !is_name(c)).unwrap_or(text.len());
        prefix.push(text[..end].to_string());
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) if rest.starts_with('*') => {
                text = &rest[1..];
                found.push(prefix.clone());
                break;
            }
            Some(rest) if rest.starts_with(|c: char| is_name(c) || c == '{') => text = rest,
            _ => {
                found.push(prefix.clone());
                break;
            }
        }
    }
    prefix.truncate(depth);
    match text.trim_start().strip_prefix("as ") {
        Some(alias) => alias.trim_start_matches(is_name),
        None => text,
    }
}

/// The room that a path leads to, seen from a module; none if it is not one of `rooms`.
fn room_of(path: &[String], module: &[&str], rooms: &[String]) -> Option<String> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    let own = module.len().checked_sub(supers).map(|kept| &module[..kept]);
    let first = match (supers, own) {
        (0, _) => path.get(1).cloned(),
        (_, Some([room, ..])) => Some((*room).to_string()),
        _ => path.get(supers).cloned(),
    };
    first.filter(|name| rooms.contains(name))
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let rooms = rooms();
    let mut uses: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in sources("src") {
        let module = source.module();
        let Some(from) = module
            .first()
            .filter(|name| rooms.contains(&name.to_string()))
        else {
            continue;
        };
        for path in paths(&source.text) {
            if let Some(to) = room_of(&path, &module, &rooms).filter(|to| to != from) {
                let place = format!("{} uses {}", source.path, path.join("::"));
                uses.entry(from.to_string()).or_default().insert(to, place);
            }
        }
    }
    let rank = |room: &String| rooms.iter().position(|name| name == room);
    let mut faults = Vec::new();
    for (from, targets) in &uses {
        for (to, place) in targets.iter().filter(|(to, _)| rank(to) < rank(from)) {
            let cycle = match way(to, from, &uses, &mut BTreeSet::new()) {
                Some(way) => format!("a cycle: {from} -> {}", way.join(" -> ")),
                None => format!("{from} stands below {to} in lib.rs"),
            };
            faults.push(format!("{place}: {cycle}"));
        }
    }
    assert!(
        uses.len() > rooms.len() / 2,
        "the reading finds no paths: {uses:?}"
    );
    assert_none(faults);
}

/// The rooms on a way of uses from one room to another.
fn way(
    from: &String,
    to: &String,
    uses: &BTreeMap<String, BTreeMap<String, String>>,
    seen: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if from == to {
        return Some(vec![to.clone()]);
    }
    if !seen.insert(from.clone()) {
        return None;
    }
    let rest = uses
        .get(from)?
        .keys()
        .find_map(|next| way(next, to, uses, seen))?;
    Some([vec![from.clone()], rest].concat())
}

#[test]
fn trees_of_paths_are_spelt_out() {
    let text = "use crate::a::{self, b::{C, D as E}, f::*};\nlet x = super::super::g::h(crate::i);";
    let found: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::a::self",
        "crate::a::b::C",
        "crate::a::b::D",
        "crate::a::f",
        "super::super::g::h",
        "crate::i",
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_room_is_in_the_map_and_every_file_in_a_module() {
    let mut faults = Vec::new();
    let all = sources("src");
    for source in all
        .iter()
        .filter(|source| !["src/lib.rs", "src/main.rs"].contains(&&*source.path))
    {
        let module = source.module();
        let name = module.last().expect("a name");
        let parent = &module[..module.len() - 1];
        let declares = |other: &&Source| {
            other.module() == parent
                && other.path != "src/main.rs"
                && other.text.lines().any(|line| {
                    let line = line.trim_start();
                    let line = line
                        .strip_prefix("pub ")
                        .or(line.strip_prefix("pub(crate) "))
                        .unwrap_or(line);
                    line.strip_prefix("mod ") == Some(&format!("{name};"))
                })
        };
        match all.iter().find(declares) {
            None => faults.push(format!("{}: no module names it", source.path)),
            Some(other) => {
                let declaration = format!("#[cfg(test)]\nmod {name};\n");
                let is_test = other.text.contains(&declaration);
                if is_test && !name.ends_with("tests") {
                    faults.push(format!(
                        "{}: a test module is named tests or …_tests",
                        source.path
                    ));
                }
            }
        }
        let folder = source.path.trim_end_matches(".rs");
        if all
            .iter()
            .any(|other| other.path == format!("{folder}/mod.rs"))
        {
            faults.push(format!("{}: is beside {folder}/mod.rs", source.path));
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
    const BEFORE: [&str; 7] = [
        "pub",
        "pub(crate)",
        "pub(super)",
        "const",
        "unsafe",
        "extern",
        "\"C\"",
    ];
    let mut words = code
        .split_whitespace()
        .skip_while(|word| BEFORE.contains(word));
    words.next() == Some("fn")
}

#[test]
fn banned_items_stay_out() {
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
            let is_table = ["const ", "static ", "! {"]
                .iter()
                .any(|word| after.contains(word));
            let bans = [
                (true, "AtomicU64", "routers have no 64-bit atomics"),
                (true, "AtomicI64", "routers have no 64-bit atomics"),
                (
                    !is_system,
                    "target_os",
                    "differences between systems are in sys/",
                ),
                (!is_system, "unsafe ", "unsafe is in sys/"),
                (is_wire, ".unwrap()", "a panic on a path of outside data"),
                (is_wire, ".expect(", "a panic on a path of outside data"),
                (is_wire, "panic!", "a panic on a path of outside data"),
                (is_wire, "unreachable!", "a panic on a path of outside data"),
                (true, "todo!", "unfinished"),
                (
                    !is_table,
                    "rustfmt::skip",
                    "only tables are laid out by hand",
                ),
            ];
            for (_, item, why) in bans
                .iter()
                .filter(|(is_banned, item, _)| *is_banned && code.contains(item))
            {
                faults.push(format!("{}:{number}: {item}: {why}", source.path));
            }
        }
    }
    assert_none(faults);
}
