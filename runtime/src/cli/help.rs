//! `bulkhead help`, and what `bulkhead --help` says, for somebody who has never seen the program.

use std::{fmt::Write as _, process::ExitCode};

use clap::{Args, Command, CommandFactory, Parser, error::ErrorKind};

use super::{CommandLine, Error, Status, output};

/// Say what the commands do, or more about one
#[derive(Debug, Args)]
pub struct Help {
    /// The one
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

impl Help {
    pub fn execute(self) -> Status {
        let help = match self.command {
            None => text(&CommandLine::command()),
            Some(name) => match CommandLine::try_parse_from(["bulkhead", &name, "--help"]) {
                Err(asked) if asked.kind() == ErrorKind::DisplayHelp => asked.render().to_string(),
                _ => return Err(Error::NoCommand(name)),
            },
        };
        output::print(&help)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What one does with the subcommands. One that is named here and does not exist is passed over.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Run containers", &["run", "create", "start", "exec", "spec"]),
    ("Look at them", &["list", "state", "ps", "events", "metrics"]),
    (
        "Change and end them",
        &[
            "kill",
            "pause",
            "resume",
            "update",
            "delete",
            "checkpoint",
            "restore",
        ],
    ),
    (
        "Know this host and this program",
        &["check", "features", "completion", "help"],
    ),
];

/// What stands at the end, there and on the manual page.
pub const EXPLANATION: &str = "\
Words:
  A bundle is a folder with a file config.json, which says what to run and how, and mostly with the container's root file
  system. `bulkhead spec` writes a config.json to start from. The OCI runtime specification describes its fields.
  An ID is the name that you give to a container. It is unique on this host below one --root.

Examples:
  bulkhead check                         # can this host run virtual machines?
  mkdir -p web/rootfs && cd web          # a bundle; unpack an image into rootfs
  bulkhead spec                          # writes config.json
  bulkhead run web                       # runs it here, until its program ends

  bulkhead create --bundle /srv/web web  # makes everything ready, and returns
  bulkhead start web                     # its program runs now
  bulkhead kill web TERM
  bulkhead delete web

With podman: podman --runtime /usr/bin/bulkhead run docker.io/library/busybox true

`bulkhead COMMAND --help` says more about one command.";

/// Prints the help that was asked for: the parser's own where it is a subcommand's.
///
/// # Errors
/// It cannot be written.
pub fn print(asked: &clap::Error) -> Result<(), Error> {
    let line = CommandLine::command()
        .disable_help_flag(true)
        .ignore_errors(true)
        .try_get_matches();
    let is_of_one = line.is_ok_and(|line| line.subcommand_name().is_some());
    output::print(&if is_of_one {
        asked.render().to_string()
    } else {
        text(&CommandLine::command())
    })
}

/// The whole text.
pub fn text(command: &Command) -> String {
    let options = command.clone().help_template("{options}").render_help();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("{about}\n\nUsage: bulkhead [OPTIONS] COMMAND ...\n");
    let width = command
        .get_subcommands()
        .map(|command| command.get_name().len())
        .max()
        .unwrap_or(0);
    for (title, names) in GROUPS {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "\n{title}:");
        for command in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {:width$}  {about}", command.get_name());
        }
    }
    let _ = write!(
        text,
        "\nOptions:\n{}\n\n{EXPLANATION}\n",
        options.to_string().trim_end()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let line = CommandLine::command();
        let mut visible: Vec<_> = line
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(Command::get_name)
            .collect();
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        grouped.retain(|name| line.find_subcommand(name).is_some());
        visible.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(
            grouped, visible,
            "sort the new command into a group of `bulkhead --help`"
        );
    }

    #[test]
    fn every_command_and_option_says_what_it_does() {
        let line = CommandLine::command();
        for command in line.get_subcommands().chain([&line]) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
        let text = text(&line);
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    }
}
