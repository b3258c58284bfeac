//! Runs a program on a pseudo-terminal, answers what it asks, and draws what is on the screen as SVG.
//!
//! `lab-picture COLUMNSxROWS [--type TEXT KEYS]... [--shot TEXT FILE]... [--end FILE] -- COMMAND...`: KEYS are
//! typed when TEXT is on the screen, `--shot` draws it at such a moment, `--end` when the program has ended.
//! Its exit status is the program's. The colours follow the reader's light or dark page.

#![expect(
    clippy::disallowed_methods,
    reason = "the program is started as a person's terminal does it"
)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use vt100::{Cell, Color, Parser, Screen};

/// What is done when a text appears.
enum Then {
    Type(String),
    Draw(String),
}

struct Plan {
    columns: u16,
    rows: u16,
    steps: Vec<(String, Then)>,
    end: Option<String>,
    command: Vec<String>,
}

fn main() -> ExitCode {
    let Some(plan) = plan(std::env::args().skip(1)) else {
        eprintln!(
            "lab-picture COLUMNSxROWS [--type TEXT KEYS] [--shot TEXT FILE] [--end FILE] -- COMMAND..."
        );
        return ExitCode::from(2);
    };
    match run(plan) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab-picture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(mut words: impl Iterator<Item = String>) -> Option<Plan> {
    let size = words.next()?;
    let (columns, rows) = size.split_once('x')?;
    let mut plan = Plan {
        columns: columns.parse().ok()?,
        rows: rows.parse().ok()?,
        steps: Vec::new(),
        end: None,
        command: Vec::new(),
    };
    while let Some(word) = words.next() {
        match &*word {
            "--type" => plan.steps.push((words.next()?, Then::Type(words.next()?))),
            "--shot" => plan.steps.push((words.next()?, Then::Draw(words.next()?))),
            "--end" => plan.end = Some(words.next()?),
            "--" => {
                plan.command = words.collect();
                return (!plan.command.is_empty()).then_some(plan);
            }
            _ => return None,
        }
    }
    None
}

fn run(mut plan: Plan) -> io::Result<u8> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let size = Winsize {
        ws_row: plan.rows,
        ws_col: plan.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.to_str().map_err(io::Error::other)?;
    let slave = File::options().read(true).write(true).open(name)?;
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).args(&plan.command);
    command.env("TERM", "xterm-256color");
    let stdio = || slave.try_clone().map(Stdio::from);
    command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
    let mut child = command.spawn()?;
    drop((command, slave));

    let mut terminal = File::from(master);
    let mut parser = Parser::new(plan.rows, plan.columns, 0);
    let mut bytes = [0; 4096];
    // Reading ends with an error when nobody has the other side any more.
    while let Ok(count @ 1..) = terminal.read(&mut bytes) {
        parser.process(&bytes[..count]);
        let shown = parser.screen().contents();
        while let Some((text, _)) = plan.steps.first()
            && shown.contains(text.as_str())
        {
            match plan.steps.remove(0).1 {
                Then::Type(keys) => terminal.write_all(keys.replace("\\n", "\n").as_bytes())?,
                Then::Draw(file) => fs::write(file, svg(parser.screen()))?,
            }
        }
    }
    let status = child.wait()?;
    if let Some(file) = plan.end {
        fs::write(file, svg(parser.screen()))?;
    }
    if let Some((text, _)) = plan.steps.first() {
        return Err(io::Error::other(format!(
            "never seen: {text}\n{}",
            parser.screen().contents()
        )));
    }
    Ok(status
        .code()
        .and_then(|code| code.try_into().ok())
        .unwrap_or(255))
}

/// One cell's size, and the space around all of them.
const WIDTH: f32 = 8.4;
const HEIGHT: u16 = 18;
const MARGIN: u16 = 14;

const STYLE: &str = "\
<style>
text { font: 14px ui-monospace, 'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace; white-space: pre; fill: #24292f }
.page { fill: #f6f8fa; stroke: #d0d7de }
.b { font-weight: bold } .d { opacity: 0.6 }
.c1 { fill: #cf222e } .c2 { fill: #116329 } .c3 { fill: #7d4e00 } .c4 { fill: #0969da } .c5 { fill: #8250df } .c6 { fill: #1b7c83 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .page { fill: #0d1117; stroke: #30363d }
  .c1 { fill: #ff7b72 } .c2 { fill: #3fb950 } .c3 { fill: #d29922 } .c4 { fill: #58a6ff } .c5 { fill: #bc8cff } .c6 { fill: #39c5cf }
}
</style>
";

/// The screen as a picture: rows down to the last that has anything on it.
fn svg(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let text: Vec<String> = screen.rows(0, columns).collect();
    let used = text.iter().rposition(|row| !row.trim().is_empty());
    let used = u16::try_from(used.map_or(0, |last| last + 1)).unwrap_or(rows);
    let (width, height) = (
        f32::from(columns) * WIDTH + 2.0 * f32::from(MARGIN),
        used * HEIGHT + 2 * MARGIN,
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height}\" width=\"{width:.0}\" role=\"img\" xml:space=\"preserve\">\n\
         <title>A terminal</title>\n{STYLE}\
         <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{}\" rx=\"6\"/>\n",
        width - 1.0,
        height - 1
    );
    for row in 0..used {
        let y = MARGIN + row * HEIGHT + 13;
        let mut column = 0;
        while column < columns {
            let (class, text, next) = stretch(screen, row, column, columns);
            if !text.trim().is_empty() {
                let x = f32::from(MARGIN) + f32::from(column) * WIDTH;
                let length = f32::from(next - column) * WIDTH;
                let class = class.trim();
                let class = if class.is_empty() {
                    String::new()
                } else {
                    format!(" class=\"{class}\"")
                };
                writeln!(
                    out,
                    "<text x=\"{x:.1}\" y=\"{y}\" textLength=\"{length:.1}\"{class}>{}</text>",
                    escaped(&text)
                )
                .expect("a String takes every write");
            }
            column = next;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Cells of one look from `column` on: their look, their text, and where the next ones begin.
fn stretch(screen: &Screen, row: u16, column: u16, columns: u16) -> (String, String, u16) {
    let look = |at: u16| screen.cell(row, at).map_or_else(String::new, class);
    let class = look(column);
    let mut text = String::new();
    let mut next = column;
    while next < columns && look(next) == class {
        let contents = screen.cell(row, next).map_or("", Cell::contents);
        let is_second_half = screen
            .cell(row, next)
            .is_some_and(Cell::is_wide_continuation);
        if !is_second_half {
            text.push_str(if contents.is_empty() { " " } else { contents });
        }
        next += 1;
    }
    (class, text, next)
}

/// The classes of a cell's look.
fn class(cell: &Cell) -> String {
    let mut class = String::new();
    if let Color::Idx(colour) = cell.fgcolor() {
        write!(class, "c{} ", colour % 8).expect("a String takes every write");
    }
    if cell.bold() {
        class.push_str("b ");
    }
    if cell.dim() {
        class.push_str("d ");
    }
    class
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
