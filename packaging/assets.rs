//! The manual pages and the shells' completions, written from the command line's own definition. An example, so that
//! what writes them is in no binary that ships.
//!
//! usage: assets FOLDER VERSION

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map(PathBuf::from);
    let version = arguments.next().and_then(|version| version.into_string().ok());
    let (Some(folder), Some(version)) = (folder, version) else {
        return Err(std::io::Error::other("usage: assets FOLDER VERSION"));
    };
    fs::create_dir_all(&folder)?;
    // clap holds texts for good, and this program is short.
    let mut command = crivet::cli::Arguments::command().version(&*version.leak());
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "crivet", &folder)?;
    }
    command.build();
    pages(&command, "crivet", &folder)
}

/// One page for the command and each below it, called `crivet-policy-check`. clap's own `help` needs none.
fn pages(command: &clap::Command, name: &str, folder: &Path) -> std::io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().name(&*name.to_owned().leak()))
        .manual("crivet")
        .render(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)?;
    for below in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        pages(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(())
}
