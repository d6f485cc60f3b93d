//! Parses the command line and does what it asks for.

#![forbid(unsafe_code)]

use announced::base::log;
use announced::health;
use announced::options::{self, Command, Source};
use announced::startup::{self, Problem, cluster, problem, threads};
use announced::sys::stdout;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    threads::abort_on_panic();
    let mut source = Source::new(std::env::args_os().skip(1));
    let command = match source.parse() {
        Ok(command) => command,
        Err(problem) => return fail(&problem, 2),
    };
    match run(command, source) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => fail(&problem.text, problem.status),
    }
}

fn fail(problem: &str, status: u8) -> ExitCode {
    log::error(format_args!("{problem}"));
    ExitCode::from(status)
}

/// False if the tracker that was asked for its health is not in service.
fn run(command: Command, source: Source) -> Result<bool, Problem> {
    let mut is_healthy = true;
    match command {
        Command::Serve(options) => startup::serve(&options, source)?,
        Command::Check(mut options, is_verbose) => {
            startup::check(&options, &source.files)?;
            print(&options.to_file(is_verbose))?;
            if is_verbose {
                print(startup::limits(&options)?.as_bytes())?;
            }
            log::line(format_args!("configuration is valid"));
        }
        Command::MakeKey(path) => cluster::make_key(&path)?,
        Command::Health(target) => {
            let answer = health::ask(&target);
            let (text, is_ok) = answer.map_err(|why| format!("--health '{target}': {why}"))?;
            print(text.as_bytes())?;
            is_healthy = is_ok;
        }
        Command::Version => print(options::version().as_bytes())?,
        Command::Help => print(options::help().as_bytes())?,
    }
    Ok(is_healthy)
}

fn print(text: &[u8]) -> Result<(), Problem> {
    let printed = stdout().and_then(|mut out| out.write_all(text));
    printed.map_err(problem("cannot write to standard output"))
}
