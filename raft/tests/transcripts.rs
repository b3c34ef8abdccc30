//! Transcripts: `transcripts/*.txt` are conversations of whole groups, each line of them explained where it is not plain.
//! The language is in `support/script.rs`.
//!
//! A file holds comments (`# ...`), commands (`> ...`) and, indented under each command, what it printed. The test runs the
//! commands and compares; `RINGSTONE_TRANSCRIPTS=write` writes the output into the files instead, to be read in the diff.

#[path = "support/script.rs"]
mod script;
#[path = "support/show.rs"]
mod show;

use script::Script;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

/// The file as it should be: comments and commands as they are, output anew.
fn run(text: &str) -> String {
    let mut script = Script::default();
    let mut new = String::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(new, "{line}").expect("a string takes all");
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| script.run(command)));
            let output = outcome.unwrap_or_else(|_| panic!("line {}: {line}", number + 1));
            output.iter().for_each(|line| writeln!(new, "    {line}").expect("a string takes all"));
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(new, "{line}").expect("a string takes all");
        } else {
            assert!(line.starts_with("    "), "line {}: neither comment, command nor output", number + 1);
        }
    }
    new
}

#[test]
fn transcripts_are_as_they_were() {
    let is_writing = std::env::var("RINGSTONE_TRANSCRIPTS").is_ok_and(|what| what == "write");
    let files = files();
    assert!(files.len() >= 25, "only {} transcripts", files.len());
    let mut changed = Vec::new();
    for file in files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        println!("{name}");
        let old = std::fs::read_to_string(&file).expect("readable");
        let Ok(new) = std::panic::catch_unwind(|| run(&old)) else {
            changed.push(name);
            continue;
        };
        if old == new {
            continue;
        }
        if is_writing {
            std::fs::write(&file, new).expect("writable");
            continue;
        }
        let differs = old.lines().zip(new.lines()).position(|(old, new)| old != new);
        let line = differs.unwrap_or(old.lines().count().min(new.lines().count()));
        let shown = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_string();
        println!("{name}, line {}:\n  was {}\n  is  {}", line + 1, shown(&old), shown(&new));
        changed.push(name);
    }
    assert!(changed.is_empty(), "differ: {changed:?}; RINGSTONE_TRANSCRIPTS=write shows the difference to git");
}
