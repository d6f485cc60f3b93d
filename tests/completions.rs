//! The completions of shells in `contrib/completions` follow from the table of flags, and work in these shells.
//! `make completions` writes them.

mod common;

use announced::options::{FLAGS, Flag};
use common::{Directory, skip};
use std::process::{Command, Stdio};

const HEAD: &str = "Follows from src/options/flags.rs, by `make completions`.";

/// Values that a shell knows.
#[derive(PartialEq)]
enum Values {
    /// The flag has no value.
    None,
    Files,
    Directories,
    Users,
    Words(String),
    Others,
}

fn values(flag: &Flag) -> Values {
    let words = flag.words();
    match flag.value() {
        "" => Values::None,
        "FILE" | "FIFO" => Values::Files,
        "DIR" => Values::Directories,
        "NAME" if flag.long() == "user" => Values::Users,
        _ if !words.is_empty() => Values::Words(words.join(" ")),
        _ => Values::Others,
    }
}

/// `-f --config`
fn names(flag: &Flag) -> Vec<String> {
    let short = flag.short().map(|short| format!("-{short}"));
    let long = format!("--{}", flag.long());
    short.into_iter().chain([long]).collect()
}

/// `--health [ADDR]`
fn is_optional(flag: &Flag) -> bool {
    flag.value().starts_with('[') && flag.value().ends_with(']')
}

fn available() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(|flag| flag.is_available())
}

fn bash() -> String {
    let mut cases = String::new();
    for flag in available() {
        let action = match values(flag) {
            Values::None => continue,
            Values::Files => {
                "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")".into()
            }
            Values::Directories => {
                "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")".into()
            }
            Values::Users => "mapfile -t COMPREPLY < <(compgen -u -- \"$cur\")".into(),
            Values::Words(words) => {
                format!("mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$cur\")")
            }
            Values::Others => ":".to_string(),
        };
        let names = names(flag).join(" | ");
        cases += &format!("\t{names}) {action} ;;\n");
    }
    let all: Vec<String> = available().flat_map(names).collect();
    let all = all.join(" ");
    format!(
        "# {HEAD}\n\
        _announced() {{\n\
        \tlocal cur=${{COMP_WORDS[COMP_CWORD]}} flag=${{COMP_WORDS[COMP_CWORD - 1]}}\n\
        \t# `--flag=value` is three words.\n\
        \t[ \"$cur\" != = ] || cur=\n\
        \t[ \"$flag\" != = ] || flag=${{COMP_WORDS[COMP_CWORD - 2]}}\n\
        \tCOMPREPLY=()\n\
        \tcase $flag in\n\
        {cases}\
        \t*) mapfile -t COMPREPLY < <(compgen -W '{all}' -- \"$cur\") ;;\n\
        \tesac\n\
        }}\n\
        complete -F _announced announced\n"
    )
}

fn zsh() -> String {
    let mut lines = String::new();
    for flag in available() {
        let name = flag.value().replace(':', "\\:");
        let colons = if is_optional(flag) { "::" } else { ":" };
        let action = match values(flag) {
            Values::None => String::new(),
            Values::Files => format!("{colons}{name}:_files"),
            Values::Directories => format!("{colons}{name}:_files -/"),
            Values::Users => format!("{colons}{name}:_users"),
            Values::Words(words) => format!("{colons}{name}:({words})"),
            Values::Others => format!("{colons}{name}: "),
        };
        let help = flag.help.replace(':', "\\:").replace('\'', "'\\''");
        let help = help.replace('[', "\\[").replace(']', "\\]");
        for name in names(flag) {
            lines += &format!(" \\\n\t'*{name}[{help}]{action}'");
        }
    }
    format!("#compdef announced\n# {HEAD}\n_arguments -s{lines}\n")
}

fn fish() -> String {
    let mut lines = format!("# {HEAD}\ncomplete -c announced -f\n");
    for flag in available() {
        let short = flag
            .short()
            .map_or(String::new(), |short| format!(" -s {short}"));
        let action = match values(flag) {
            Values::None => String::new(),
            _ if is_optional(flag) => String::new(),
            Values::Files => " -rF".into(),
            Values::Directories => " -xa '(__fish_complete_directories)'".into(),
            Values::Users => " -xa '(__fish_complete_users)'".into(),
            Values::Words(words) => format!(" -xa '{words}'"),
            Values::Others => " -x".into(),
        };
        let help = flag.help.replace('\'', "\\'");
        lines += &format!(
            "complete -c announced{short} -l {}{action} -d '{help}'\n",
            flag.long()
        );
    }
    lines
}

fn path(name: &str) -> String {
    format!("{}/contrib/completions/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn completions_follow_from_the_table_of_flags() {
    // Elsewhere some flags are absent.
    if !cfg!(all(
        target_os = "linux",
        feature = "cluster",
        feature = "full-scrape"
    )) {
        return;
    }
    let files = [
        ("announced.bash", bash()),
        ("_announced", zsh()),
        ("announced.fish", fish()),
    ];
    for (name, text) in files {
        if std::env::var_os("WRITE").is_some() {
            std::fs::write(path(name), &text).expect("can be written");
        }
        let written = std::fs::read_to_string(path(name)).unwrap_or_default();
        assert!(written == text, "{name} is out of date: make completions");
    }
}

/// The output of a shell that runs this script, or none if the shell is not installed.
fn output(shell: &[&str], script: &str) -> Option<String> {
    let mut command = Command::new("timeout");
    command
        .arg("20")
        .args(shell)
        .arg(script)
        .stdin(Stdio::null());
    if Command::new(shell[0]).arg("--version").output().is_err() {
        skip(shell[0]);
        return None;
    }
    let output = command.output().expect("timeout is installed");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shell:?}: {err}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The beginning of a command, and all completions of its last word.
const CASES: [(&str, &str); 6] = [
    ("--whit", "--whitelist"),
    ("--refuse-udp ", "empty error"),
    ("--full-scrape mo", "modest"),
    ("--state-interval 5 --he", "--health --help"),
    ("-u roo", "root"),
    ("--interval ", ""),
];

fn assert_completes(shell: &str, line: &str, output: &str, expected: &str) {
    // fish writes a description behind a tab.
    let words = output.lines().filter_map(|line| line.split('\t').next());
    let mut words: Vec<&str> = words.collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.join(" "), expected, "{shell}: announced {line}");
}

#[test]
fn bash_completes_flags_and_values() {
    let directory = Directory::new("bash");
    let list = directory.write("list", "");
    let start = list.trim_end_matches("ist").to_string();
    let split = format!("--whitelist = {start}");
    let word = format!("-w {start}");
    let files = [(&*word, &*list), (&*split, &*list)];
    for (line, expected) in CASES.iter().chain(&files) {
        // Outside of a completion there is no compopt.
        let script = format!(
            "compopt() {{ :; }}; . {}; line='announced {line}'; read -ra COMP_WORDS <<<\"$line\"
            case $line in *' ') COMP_WORDS+=('') ;; esac
            COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _announced
            [ ${{#COMPREPLY[@]}} = 0 ] || printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            path("announced.bash")
        );
        let Some(output) = output(&["bash", "--norc", "-c"], &script) else {
            return;
        };
        assert_completes("bash", line, &output, expected);
    }
}

#[test]
fn fish_completes_flags_and_values() {
    for (line, expected) in CASES {
        let file = path("announced.fish");
        let script = format!("source {file}; complete -C 'announced {line}'");
        let Some(output) = output(&["fish", "--no-config", "-c"], &script) else {
            return;
        };
        assert_completes("fish", line, &output, expected);
    }
}

/// zsh completes at a terminal only: here at one of zpty. Where a key completes a single word, it types the rest of it.
#[test]
fn zsh_completes_flags_and_values() {
    let directory = Directory::new("zsh");
    let folder = path("");
    let home = directory.file("");
    for (line, expected) in CASES {
        if expected.is_empty() || expected.contains(' ') {
            continue;
        }
        let script = format!(
            "zmodload zsh/zpty; export HOME={home} ZDOTDIR={home} TERM=dumb; zpty shell zsh -f -i
            zpty -w shell 'fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print rea''dy'
            zpty -r shell text '*ready*'
            zpty -w -n shell $'announced {line}\\t'
            zpty -r shell text '*{expected} *'; zpty -d shell; print found"
        );
        let Some(output) = output(&["zsh", "-f", "-c"], &script) else {
            return;
        };
        assert_eq!(output, "found\n", "announced {line}");
    }
}
