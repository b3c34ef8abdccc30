//! The `ringstone` program: thin wiring from the command line to the crates.

mod bench;
mod ctl;
mod exit;
mod flags;
mod initial_cluster;
mod inspect;
mod logging;
mod serve;
mod snapshot;
mod tune;

use std::process::ExitCode;

use exit::ExitStatus;

/// Measured against glibc's under puts: 30 against 35 CPU-us each (an eighth of a put was in malloc and free).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
ringstone: a replicated metadata store that speaks the etcd v3 API

Usage: ringstone [COMMAND]

Commands:
  serve      run a member (the default without a command)
  ctl        talk to a server, as etcdctl does
  snapshot   take, look at and restore snapshots
  inspect    look into a log or a page file
  bench      put a server under load and measure it
  tune       probe the hardware: is this disk fast enough?
  version    print versions

`ringstone COMMAND --help` tells more.
";

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(std::ffi::OsString::into_string);
    let mut arguments: Vec<String> = match words.collect() {
        Ok(arguments) => arguments,
        Err(word) => {
            eprintln!("ringstone: {word:?} is no UTF-8: such a value goes through standard input");
            return ExitStatus::Usage.into();
        }
    };
    let command = match arguments.first().map(String::as_str) {
        None => "serve".to_owned(),
        Some("--version" | "-version" | "version") => {
            serve::print_version();
            return ExitCode::SUCCESS;
        }
        Some("--help" | "-h" | "help") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        // `ringstone --data-dir x` is what etcd's users type.
        Some(first) if first.starts_with('-') => "serve".to_owned(),
        Some(_) => arguments.remove(0),
    };
    match command.as_str() {
        "serve" => serve::main(&arguments),
        "ctl" => ctl::main(&arguments),
        "snapshot" => snapshot::main(&arguments),
        "inspect" => inspect::main(&arguments),
        "bench" => bench::main(&arguments),
        "tune" => tune::main(&arguments),
        other => {
            eprintln!("ringstone: unknown command {other:?}\n\n{USAGE}");
            ExitStatus::Usage.into()
        }
    }
}
