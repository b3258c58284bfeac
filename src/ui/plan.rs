//! What a dry run found, so that a person can decide: how much is deleted, created and changed, where
//! most of it is, and the largest of it. Deletions come first everywhere.

use crate::change::{Action, Amount, Amounts, Digest, FolderAmounts, Notable};

use super::changes::sign;
use super::look::{Line, Look, Paint};
use super::text::{bytes, clean, columns, fit_middle, number};
use super::words::Width;

/// Spaces before what is in a list of a list.
const DEEPER: usize = 4;

/// A module's plan, in a few lines; what it `decided` comes first.
pub(super) fn plan(digest: &Digest, decided: Vec<Line>, look: Look, width: Width) -> Vec<Line> {
    let mut head = Line::of(clean(&digest.module), Paint::Bold);
    let changes_nothing = digest.total.items() == 0;
    if changes_nothing {
        head.push(" would change nothing", Paint::Dim);
    } else {
        head.push(" would", Paint::Plain);
    }
    let mut lines = vec![head];
    lines.extend(decided);
    if changes_nothing {
        return lines;
    }
    if digest.is_whole {
        lines.extend(notables(&digest.largest, 2, look, width));
        return lines;
    }
    lines.extend(totals(&digest.total));
    if !digest.folders.is_empty() {
        lines.push(Line::of("  by folder", Paint::Dim));
        lines.extend(folders(&digest.folders, look, width));
    }
    if !digest.largest.is_empty() {
        lines.push(Line::of("  the largest", Paint::Dim));
        lines.extend(notables(&digest.largest, DEEPER, look, width));
    }
    lines
}

/// A line for each kind of change that there is.
fn totals(total: &Amounts) -> Vec<Line> {
    let kinds = Action::ALL.into_iter();
    let rows: Vec<(Action, Amount)> = kinds
        .map(|action| (action, total.of(action)))
        .filter(|(_, amount)| amount.items > 0)
        .collect();
    let widest = |cell: &dyn Fn(&(Action, Amount)) -> String| {
        rows.iter()
            .map(|row| columns(&cell(row)))
            .max()
            .unwrap_or(0)
    };
    let count = |row: &(Action, Amount)| number(row.1.items);
    let size = |row: &(Action, Amount)| match row.1.bytes {
        0 => String::new(),
        n => bytes(n),
    };
    let name = |row: &(Action, Amount)| row.0.name().to_owned();
    let (name_width, count_width, size_width) = (widest(&name), widest(&count), widest(&size));
    rows.iter()
        .map(|row| {
            let (sign, paint) = sign(row.0);
            let (name, count, size) = (name(row), count(row), size(row));
            let mut line = Line::of(format!("  {sign} {name:name_width$}"), paint);
            let figures = format!("  {count:>count_width$}  {size:>size_width$}");
            line.push(figures.trim_end(), Paint::Plain);
            line
        })
        .collect()
}

/// A folder a line, or two where there is no room.
fn folders(folders: &[FolderAmounts], look: Look, width: Width) -> Vec<Line> {
    let margin = " ".repeat(DEEPER);
    let paths = folders.iter().map(|folder| columns(&folder.path));
    let path_width = paths.max().unwrap_or(0);
    let cells: Vec<Line> = folders.iter().map(|f| cells(&f.amounts)).collect();
    let widest = cells.iter().map(Line::columns).max().unwrap_or(0);
    let beside = width.is_none_or(|width| DEEPER + path_width + 2 + widest <= width);
    let mut lines = Vec::new();
    for (folder, cells) in folders.iter().zip(cells) {
        let path = shown(&folder.path, DEEPER, look, width);
        let mut line = Line::of(format!("{margin}{path}"), Paint::Plain);
        if beside {
            line.push(
                " ".repeat(path_width - columns(&folder.path) + 2),
                Paint::Plain,
            );
        } else {
            lines.push(line);
            line = Line::of(format!("{margin}  "), Paint::Plain);
        }
        line.append(cells);
        lines.push(line);
    }
    lines
}

/// `- 1,204 (3.2 GiB)  + 12 (1.0 KiB)`.
fn cells(amounts: &Amounts) -> Line {
    let mut line = Line::default();
    for action in Action::ALL {
        let amount = amounts.of(action);
        if amount.items == 0 {
            continue;
        }
        let gap = if line == Line::default() { "" } else { "  " };
        let (sign, paint) = sign(action);
        line.push(format!("{gap}{sign} "), paint);
        line.push(number(amount.items), Paint::Plain);
        if amount.bytes > 0 {
            line.push(format!(" ({})", bytes(amount.bytes)), Paint::Dim);
        }
    }
    line
}

/// Single changes, size first where there is one.
fn notables(notables: &[Notable], margin: usize, look: Look, width: Width) -> Vec<Line> {
    let size = |notable: &Notable| match notable.bytes {
        0 => String::new(),
        n => bytes(n),
    };
    let sizes = notables.iter().map(|notable| columns(&size(notable)));
    let size_width = sizes.max().unwrap_or(0);
    let before = margin + 2 + if size_width > 0 { size_width + 2 } else { 0 };
    notables
        .iter()
        .map(|notable| {
            let (sign, paint) = sign(notable.action);
            let mut line = Line::of(format!("{}{sign} ", " ".repeat(margin)), paint);
            if size_width > 0 {
                line.push(format!("{:>size_width$}  ", size(notable)), Paint::Plain);
            }
            line.push(shown(&notable.item, before, look, width), Paint::Plain);
            line
        })
        .collect()
}

/// A path in what `width` leaves behind `before` columns; its middle goes first.
fn shown(path: &str, before: usize, look: Look, width: Width) -> String {
    match width {
        Some(width) => fit_middle(path, width.saturating_sub(before).max(8), look.ellipsis()),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Digester};

    const LOOK: Look = Look {
        color: false,
        unicode: true,
    };

    fn add(digester: &mut Digester, action: Action, item: &str, bytes: u64) {
        digester.add(&Change {
            action,
            item: item.as_bytes().to_vec(),
            detail: String::new(),
            bytes,
            from: None,
        });
    }

    fn text(digest: &Digest, width: Width) -> String {
        let lines = plan(digest, Vec::new(), LOOK, width);
        if let Some(width) = width {
            assert!(lines.iter().all(|line| line.columns() <= width));
        }
        let lines: Vec<String> = lines.iter().map(|line| line.render(LOOK)).collect();
        assert!(
            lines.iter().all(|line| line.trim_end() == line),
            "{lines:?}"
        );
        lines.join("\n")
    }

    fn example() -> Digest {
        let mut digester = Digester::new("user_data");
        for n in 0..1204 {
            add(
                &mut digester,
                Action::Delete,
                &format!("/home/dev/.cache/old/{n}"),
                3 << 20,
            );
        }
        for n in 0..40 {
            add(
                &mut digester,
                Action::Create,
                &format!("/home/dev/work/new/{n}"),
                1 << 10,
            );
        }
        add(
            &mut digester,
            Action::Change,
            "/home/dev/work/vm/disk.qcow2",
            7 << 30,
        );
        add(&mut digester, Action::Attributes, "/home/dev/work", 0);
        digester.finish()
    }

    #[test]
    fn a_plan_tells_what_where_and_the_largest() {
        insta::assert_snapshot!(text(&example(), Some(79)), @"
        user_data would
          - delete      1,204   3.5 GiB
          + create         40  40.0 KiB
          * change          1   7.0 GiB
          . attributes      1
          by folder
            /home/dev/.cache/old  - 1,204 (3.5 GiB)
            /home/dev/work/vm     * 1 (7.0 GiB)
            /home/dev/work/new    + 40 (40.0 KiB)
            /home/dev             . 1
          the largest
            - 3.0 MiB  /home/dev/.cache/old/0
            - 3.0 MiB  /home/dev/.cache/old/1
            - 3.0 MiB  /home/dev/.cache/old/2
            - 3.0 MiB  /home/dev/.cache/old/3
            - 3.0 MiB  /home/dev/.cache/old/4
            * 7.0 GiB  /home/dev/work/vm/disk.qcow2
            + 1.0 KiB  /home/dev/work/new/0
            + 1.0 KiB  /home/dev/work/new/1
            + 1.0 KiB  /home/dev/work/new/2
            + 1.0 KiB  /home/dev/work/new/3
        ");
    }

    #[test]
    fn at_40_columns_a_folder_has_two_lines_and_paths_lose_their_middle() {
        let text = text(&example(), Some(39));
        let (head, _) = text.split_once("    + 1.0 KiB").unwrap();
        insta::assert_snapshot!(head.trim_end(), @"
        user_data would
          - delete      1,204   3.5 GiB
          + create         40  40.0 KiB
          * change          1   7.0 GiB
          . attributes      1
          by folder
            /home/dev/.cache/old
              - 1,204 (3.5 GiB)
            /home/dev/work/vm
              * 1 (7.0 GiB)
            /home/dev/work/new
              + 40 (40.0 KiB)
            /home/dev
              . 1
          the largest
            - 3.0 MiB  /home/dev/.cache/old/0
            - 3.0 MiB  /home/dev/.cache/old/1
            - 3.0 MiB  /home/dev/.cache/old/2
            - 3.0 MiB  /home/dev/.cache/old/3
            - 3.0 MiB  /home/dev/.cache/old/4
            * 7.0 GiB  /home/de…k/vm/disk.qcow2
        ");
    }

    #[test]
    fn few_changes_are_listed_and_none_is_a_word() {
        let mut digester = Digester::new("install_on_target");
        add(
            &mut digester,
            Action::Create,
            "/usr/local/bin/pc-switcher",
            9 << 20,
        );
        insta::assert_snapshot!(text(&digester.finish(), Some(39)), @"
        install_on_target would
          + 9.0 MiB  /usr/local/bin/pc-switcher
        ");
        let nothing = Digester::new("dummy_success").finish();
        assert_eq!(
            text(&nothing, Some(39)),
            "dummy_success would change nothing"
        );
    }
}
