//! `bulkhead completion`

use std::process::ExitCode;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::generate;

use super::{CommandLine, Status, output::print};

/// Print a script that completes this command's words in a shell
#[derive(Debug, Args)]
#[command(after_help = "Example, for the running shell:\n  source <(bulkhead completion bash)")]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}

impl Completion {
    pub fn execute(self) -> Status {
        let mut script = Vec::new();
        let shell = clap_complete::Shell::from(self.shell);
        generate(shell, &mut CommandLine::command(), "bulkhead", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
