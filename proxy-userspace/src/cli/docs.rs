//! `portsplice completions`, `portsplice man` and `portsplice docs`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command, ValueEnum};
use clap_complete::Shell;

use super::output;
use crate::{app, config};

/// What `portsplice completions` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portsplice completions bash > /etc/bash_completion.d/portsplice
  portsplice completions zsh > /usr/share/zsh/site-functions/_portsplice
  portsplice completions fish > ~/.config/fish/completions/portsplice.fish")]
pub(super) struct CompletionsArgs {
    /// The shell that will read the script
    shell: Shell,
}

/// What `portsplice man` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portsplice man | man -l -
  portsplice man --dir /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write portsplice.1 and one page for each command into this directory (made if missing) instead of printing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What `portsplice docs` takes.
#[derive(Debug, Args)]
pub(super) struct DocsArgs {
    /// Which document
    document: Document,
}

/// The documents that are made from the source.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Document {
    /// docs/configuration.md
    Configuration,
    /// docs/metrics.md
    Metrics,
}

pub(super) fn docs(args: &DocsArgs) -> Result<()> {
    let text = match args.document {
        Document::Configuration => config::docs::document(),
        Document::Metrics => app::metrics_document(),
    };
    output::print(text.as_bytes())
}

pub(super) fn completions(args: &CompletionsArgs, command: &mut Command) -> Result<()> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, command, name, &mut script);
    output::print(&script)
}

pub(super) fn man(args: &ManArgs, command: Command) -> Result<()> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return output::print(&page);
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    clap_mangen::generate_to(command, dir).with_context(|| format!("cannot write manual pages to {}", dir.display()))
}
