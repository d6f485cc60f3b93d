//! Attacks by those who may write lists and FIFOs, and clocks that are set.

use super::common::http::{get, metric};
use super::common::{Directory, make_fifo};
use super::measure::{Attack, Target, attack};
use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::Duration;

pub const ATTACKS: &[Attack] = &[
    Attack {
        prepare: |directory| {
            make_fifo(&directory.file("fifo"));
            drop(directory.write("list", ""));
        },
        ..attack("garbage in a FIFO", "-b DIR/list --list-add DIR/fifo", fifo)
    },
    Attack {
        prepare: |directory| drop(directory.write("list", "")),
        ..attack("lists replaced while they are read", "-b DIR/list", lists)
    },
    attack("clock an hour back", "", |target| set_clock(target, "-1h")),
    attack("clock a year forward", "", |target| {
        set_clock(target, "+365d")
    }),
];

fn fifo(target: &Target) -> String {
    let path = target.directory.file("fifo");
    let mut fifo = OpenOptions::new().write(true).open(path).expect("is read");
    let garbage: Vec<u8> = (0..65_536_u32)
        .map(|number| (number.wrapping_mul(number) >> 7) as u8)
        .collect();
    let mut line = Vec::new();
    let count = target.repeat(|count| {
        line.clear();
        line.extend_from_slice(&garbage);
        line.extend_from_slice(format!("\n{count:040x}\n").as_bytes());
        let _ = fifo.write_all(&line);
    });
    let changes = metric(&get(target.tcp(), "/metrics").text(), "list_changes");
    format!("{} MB, {changes} changes", count / 16)
}

fn lists(target: &Target) -> String {
    let lines: String = (0..200_000)
        .map(|number| format!("{number:040x}\n"))
        .collect();
    let count = target.repeat(|count| {
        // In place, so that a reader finds a part of it.
        let path = target.directory.file("list");
        let mut file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .expect("is ours");
        target.daemon.signal("HUP");
        for piece in lines.as_bytes().chunks(1 << 20) {
            let _ = file.write_all(&piece[..piece.len() - (count as usize % 40)]);
            thread::sleep(Duration::from_millis(1));
        }
    });
    let loaded = target.daemon.count_lines("blacklist: loaded");
    let failed = target.daemon.count_lines("reload failed");
    format!("{count} times; {loaded} loads, {failed} failures")
}

/// Has a daemon read its wall clock's offset from a file.
pub fn fake_clock(command: &mut Command, directory: &Directory) {
    let asked = Command::new("faketime")
        .args(["-f", "+0", "printenv", "LD_PRELOAD"])
        .output();
    let Ok(output) = asked else {
        return;
    };
    let library = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let file = directory.write("clock", "+0");
    command.args([
        "env",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ]);
    command.args([
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={file}"),
    ]);
}

fn set_clock(target: &Target, offset: &str) -> String {
    let before = metric(&get(target.tcp(), "/metrics").text(), "torrents");
    thread::sleep(Duration::from_secs(1));
    target.directory.write("clock", offset);
    while !target.is_over() {
        thread::sleep(Duration::from_millis(20));
    }
    let after = metric(&get(target.tcp(), "/metrics").text(), "torrents");
    format!("{before} torrents before, {after} after")
}
