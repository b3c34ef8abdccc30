//! `ringstone tune`: is this hardware good for a member?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringstone_tuning::Verdict;

use crate::exit::ExitStatus;

#[derive(Parser, Debug)]
#[command(name = "ringstone tune", disable_version_flag = true)]
struct Tune {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Times syncs of a disk. Ends with 0 if it is fast enough, with 1 if it is not
    Disk {
        /// A folder on the disk
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Syncs each way
        #[arg(long, default_value_t = 1_000)]
        syncs: usize,
        /// The figures as one line of JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs `ringstone tune ARGUMENTS`.
pub fn main(arguments: &[String]) -> ExitCode {
    let words = std::iter::once("ringstone tune").chain(arguments.iter().map(String::as_str));
    let What::Disk { folder, syncs, json } = match Tune::try_parse_from(words) {
        Ok(tune) => tune.what,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitStatus::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    if syncs == 0 {
        eprintln!("ringstone tune disk: --syncs must be above 0");
        return ExitStatus::Usage.into();
    }
    match ringstone_tuning::probe(&folder, syncs) {
        Ok(report) => {
            if json {
                println!("{}", serde_json::to_string(&report).expect("a report is numbers and names"));
            } else {
                println!("{report}");
            }
            if report.verdict() == Verdict::Good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("ringstone tune disk: {error}");
            ExitStatus::DiskFailed.into()
        }
    }
}
