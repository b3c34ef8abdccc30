//! `completion` and `options`: what the command line itself knows.

use std::io::Write as _;

use clap::{Command, CommandFactory as _};
use clap_complete::{Generator, generate, shells};

use super::args::{Ctl, Shell};
use super::{ERROR, Failure, Outcome, go_cause};

/// Prints the script by which a shell completes `ringstone ctl`. Only standard output is written to.
pub fn script(shell: Shell) -> Outcome {
    let text = match shell {
        Shell::Bash => script_of(shells::Bash),
        Shell::Zsh => script_of(shells::Zsh),
        Shell::Fish => script_of(shells::Fish),
        Shell::Pwsh => script_of(shells::PowerShell),
    };
    print(&text)
}

/// A shell completes programs: `ctl` is a word of the program `ringstone`.
fn script_of(generator: impl Generator) -> Vec<u8> {
    let ctl = Ctl::command().name("ctl").about("Talks to a server, as etcdctl does");
    let mut program = Command::new("ringstone").disable_help_subcommand(true).subcommand(ctl);
    let mut text = Vec::new();
    generate(generator, &mut program, "ringstone", &mut text);
    text
}

/// Prints the flags of all commands.
pub fn options() -> Outcome {
    let mut flags = Command::new("ringstone ctl")
        .disable_help_flag(true)
        .help_template("The following options can be passed to any command:\n\n{options}\n");
    for flag in Ctl::command().get_arguments().filter(|flag| flag.is_global_set()) {
        flags = flags.arg(flag.clone());
    }
    print(flags.render_help().to_string().as_bytes())
}

/// A reader that has seen enough is no error.
fn print(text: &[u8]) -> Outcome {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(ERROR, go_cause(&error))),
        _ => Ok(()),
    }
}
