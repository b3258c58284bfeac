//! The manual: pages for `man(1)`, from the definition of the command line, the example
//! configuration, and the texts in `texts/`.
//!
//! The pages are in `man/` of the repository; a test writes them there and fails where they differ.

mod commands;
mod config;
mod markup;
mod roff;

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};

use self::roff::Roff;
use super::args::Cli;
use super::ended_by;
use crate::escape::escape_bytes;
use crate::exit::ExitStatus;
use crate::run::error::RunError;

/// The day the texts were last gone through; a page without a date is no page to `mandoc`.
const DATE: &str = "2026-11-21";

/// Hand-written texts, by the name of the page.
const TEXTS: &[(&str, &str)] = &[
    ("pc-switcher", include_str!("texts/pc-switcher.md")),
    ("pc-switcher-sync", include_str!("texts/sync.md")),
    ("pc-switcher-init", include_str!("texts/init.md")),
    ("pc-switcher-snapshots", include_str!("texts/snapshots.md")),
    ("pc-switcher-doctor", include_str!("texts/doctor.md")),
    ("pc-switcher-history", include_str!("texts/history.md")),
    ("pc-switcher-logs", include_str!("texts/logs.md")),
    ("pc-switcher-status", include_str!("texts/status.md")),
];

/// `pc-switcher(7)`.
const UNATTENDED: &str = include_str!("texts/unattended.md");

/// A page of the manual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// `pc-switcher-sync.1`.
    pub file_name: String,
    /// What is in the file.
    pub text: String,
}

impl Page {
    fn new(name: &str, section: u8, put: impl FnOnce(&mut Roff)) -> Self {
        let source = concat!("pc-switcher ", env!("CARGO_PKG_VERSION"));
        let mut roff = Roff::new(name, section, DATE, source);
        put(&mut roff);
        Self {
            file_name: format!("{name}.{section}"),
            text: roff.finish(),
        }
    }
}

/// Every page.
#[must_use]
pub fn pages() -> Vec<Page> {
    let mut root = Cli::command();
    root.build();
    let mut pages = vec![of_command(&root, "pc-switcher")];
    for command in commands::visible(&root) {
        let path = format!("pc-switcher {}", command.get_name());
        pages.push(of_command(command, &path));
    }
    pages.push(Page::new("pc-switcher.config", 5, |page| {
        page.heading("Name");
        page.paragraph("pc-switcher.config - configuration of pc-switcher");
        config::put(page);
    }));
    pages.push(Page::new("pc-switcher", 7, |page| {
        page.heading("Name");
        page.paragraph("pc-switcher - syncing without a person at the keyboard");
        markup::put(page, UNATTENDED);
    }));
    pages
}

fn of_command(command: &Command, path: &str) -> Page {
    let name = path.replace(' ', "-");
    let text = TEXTS.iter().find(|(of, _)| *of == name);
    let text = text.map_or("", |(_, text)| text);
    Page::new(&name, 1, |page| {
        commands::put(page, path, command, text);
        let is_root = path == "pc-switcher";
        if is_root || name == "pc-switcher-sync" {
            commands::exit_statuses(page);
        }
        page.heading("See also");
        let others = ["`pc-switcher.config`(5)", "`pc-switcher`(7)"].join(", ");
        if is_root {
            page.paragraph(&others);
        } else {
            page.paragraph(&format!("`pc-switcher`(1), {others}"));
        }
    })
}

/// `man DIR`: writes every page into `directory`.
#[must_use]
pub fn run(directory: &Path) -> ExitStatus {
    match write(directory) {
        Ok(()) => ExitStatus::Done,
        Err(source) => ended_by(&RunError::Write {
            path: escape_bytes(directory.as_os_str().as_encoded_bytes()),
            source,
        }),
    }
}

fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for page in pages() {
        fs::write(directory.join(page.file_name), page.text)?;
    }
    Ok(())
}
