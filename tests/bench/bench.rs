//! The benchmark behind `make bench`, which needs Linux: it reads /proc and pins processes to cores.

#[cfg(target_os = "linux")]
#[path = "mod.rs"]
mod linux;

#[cfg(target_os = "linux")]
use linux::main as run;

#[cfg(not(target_os = "linux"))]
fn run() -> std::process::ExitCode {
    eprintln!("bench: needs Linux");
    std::process::ExitCode::FAILURE
}

fn main() -> std::process::ExitCode {
    run()
}
