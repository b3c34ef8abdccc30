//! `ringstone inspect`: what stands in a log or a page file, for people. Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use ringstone_core::group::tree_specs;

use crate::exit::ExitStatus;

const USAGE: &str = "\
Usage: ringstone inspect wal DIRECTORY
       ringstone inspect pages FILE

Prints what a log (<data-dir>/member/wal) or a page file (<data-dir>/member/pages-0) holds, and what is damaged in it.
Run it while the member is stopped, or on a copy: a file that is being written may show findings that are none.
";

/// Runs `ringstone inspect ARGUMENTS`. Ends with 13 where something is damaged.
pub fn main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut out = std::io::stdout().lock();
    let (path, sound) = match words.as_slice() {
        ["--help" | "-h" | "help"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["wal", path] => {
            let found = ringstone_wal::inspect::inspect(Path::new(path), &mut out);
            (path, found.map(|summary| summary.verdict.is_ok()).map_err(|error| error.to_string()))
        }
        ["pages", path] => {
            let found = ringstone_pager::inspect(Path::new(path), &tree_specs(), &mut out);
            (path, found.map(|report| report.is_sound()).map_err(|error| error.to_string()))
        }
        _ => {
            eprint!("{USAGE}");
            return ExitStatus::Usage.into();
        }
    };
    match sound {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitStatus::Damaged.into(),
        Err(text) => {
            eprintln!("ringstone inspect: {path}: {text}");
            ExitStatus::Damaged.into()
        }
    }
}
