//! Many decisions on one screen, by keyboard: what is answered, where the cursor is, what is shown of it.
//!
//! It fits into any window: rows scroll, and what the row under the cursor would do is told in full below.

use crate::prompt::{Choice, Survey, SurveyGroup, SurveyRow};

use super::look::{Line, Look, Paint};
use super::text::{self, clean, wrap};
use super::tty::Key;

/// Most lines that tell about the row under the cursor.
const DETAIL: usize = 6;
/// Fewest rows that are shown, however small the window.
const FEWEST: usize = 3;

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// More keys.
    More,
    /// Everything is answered.
    Done,
}

/// A survey being answered.
#[derive(Debug, Clone)]
pub(super) struct Sheet {
    survey: Survey,
    /// Group and row of every row, in order.
    places: Vec<(usize, usize)>,
    cursor: usize,
    /// First line of the list that is shown.
    top: usize,
    /// Lines of the list that fit.
    room: usize,
}

impl Sheet {
    /// Unanswered: each row has the answer it begins with.
    pub(super) fn new(survey: Survey) -> Self {
        let places = (survey.groups.iter().enumerate())
            .flat_map(|(group, rows)| (0..rows.rows.len()).map(move |row| (group, row)))
            .collect();
        Self {
            survey,
            places,
            cursor: 0,
            top: 0,
            room: 10,
        }
    }

    /// For each group the answer to each row.
    pub(super) fn answers(&self) -> Vec<Vec<usize>> {
        (self.survey.groups.iter())
            .map(|group| group.rows.iter().map(|row| row.answer).collect())
            .collect()
    }

    fn current(&self) -> Option<(&SurveyGroup, &SurveyRow)> {
        let (group, row) = *self.places.get(self.cursor)?;
        let group = &self.survey.groups[group];
        Some((group, &group.rows[row]))
    }

    /// Takes the window's size in.
    pub(super) fn fit_into(&mut self, (rows, columns): (usize, usize)) {
        let below = self.below(columns).len() + 2;
        self.room = rows.saturating_sub(below + 1).max(FEWEST);
        let at = self.line_of(self.cursor);
        // The heading above the first row of a group belongs to it.
        let from = at.saturating_sub(1);
        if from < self.top {
            self.top = from;
        } else if at >= self.top + self.room {
            self.top = at + 1 - self.room;
        }
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: Key) -> Turn {
        let last = self.places.len().saturating_sub(1);
        let page = self.room.saturating_sub(1).max(1);
        match key {
            Key::Enter => return Turn::Done,
            Key::Up | Key::Char('k') => self.cursor = self.cursor.saturating_sub(1),
            Key::Down | Key::Char('j') => self.cursor = (self.cursor + 1).min(last),
            Key::PageUp => self.cursor = self.cursor.saturating_sub(page),
            Key::PageDown => self.cursor = (self.cursor + page).min(last),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = last,
            Key::Char(' ') => self.next_answer(),
            Key::Char(key) => self.answer(key),
            Key::Nothing => {}
        }
        Turn::More
    }

    fn next_answer(&mut self) {
        if let Some(&(group, row)) = self.places.get(self.cursor) {
            let group = &mut self.survey.groups[group];
            let count = group.choices.len().max(1);
            let row = &mut group.rows[row];
            row.answer = (row.answer + 1) % count;
        }
    }

    /// A small letter answers the row and goes on, a capital one the whole group.
    fn answer(&mut self, key: char) {
        let Some(&(group, row)) = self.places.get(self.cursor) else {
            return;
        };
        let group = &mut self.survey.groups[group];
        let small = key.to_ascii_lowercase();
        let Some(answer) = group.choices.iter().position(|choice| choice.key == small) else {
            return;
        };
        if key == small {
            group.rows[row].answer = answer;
            self.cursor = (self.cursor + 1).min(self.places.len() - 1);
            return;
        }
        for row in &mut group.rows {
            if !row.alone {
                row.answer = answer;
            }
        }
    }

    /// The line of the list that a row stands in, headings counted.
    fn line_of(&self, cursor: usize) -> usize {
        let group = self.places.get(cursor).map_or(0, |(group, _)| *group);
        let headings = self.survey.groups[..=group.min(self.survey.groups.len().saturating_sub(1))]
            .iter()
            .filter(|group| !group.rows.is_empty())
            .count();
        cursor + headings
    }

    /// Everything that is shown.
    pub(super) fn lines(&self, size: (usize, usize), look: Look) -> Vec<Line> {
        let mut sheet = self.clone();
        sheet.fit_into(size);
        let mut lines = vec![Line::of(clean(&sheet.survey.title), Paint::Bold)];
        let list = sheet.list(look);
        let more = list.len() > sheet.room;
        lines.extend(list.into_iter().skip(sheet.top).take(sheet.room));
        let mark = if more {
            format!("({} of {})", sheet.cursor + 1, sheet.places.len())
        } else {
            String::new()
        };
        lines.push(Line::of(mark, Paint::Dim));
        lines.extend(sheet.below(size.1));
        lines
    }

    fn list(&self, look: Look) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut index = 0;
        for group in self
            .survey
            .groups
            .iter()
            .filter(|group| !group.rows.is_empty())
        {
            let heading = format!("{} ({})", clean(&group.heading), group.rows.len());
            lines.push(Line::of(heading, Paint::Bold));
            for row in &group.rows {
                let here = index == self.cursor;
                let pointer = if here { look.sign("❯ ", "> ") } else { "  " };
                let mut line = Line::of(pointer, Paint::Bold);
                line.append(answered(group, row, look));
                let paint = if here { Paint::Bold } else { Paint::Plain };
                line.push(clean(&row.text), paint);
                lines.push(line);
                index += 1;
            }
        }
        lines
    }

    /// What the row under the cursor is and would do, and the keys.
    fn below(&self, columns: usize) -> Vec<Line> {
        let width = columns.saturating_sub(1).max(10);
        let mut lines = Vec::new();
        if let Some((group, row)) = self.current() {
            let mut told: Vec<String> = wrap(&clean(&row.text), width, 2);
            for text in &row.detail {
                told.extend(wrap(&format!("  {}", clean(text)), width, 2));
            }
            if told.len() > DETAIL {
                told.truncate(DETAIL);
                told[DETAIL - 1].push_str(" ...");
            }
            lines.extend(told.into_iter().map(|text| Line::of(text, Paint::Plain)));
            for choice in &group.choices {
                let text = format!(
                    "{}  {}: {}",
                    choice.key,
                    clean(&choice.label),
                    clean(&choice.effect)
                );
                let text = wrap(&text, width, 3);
                lines.extend(text.into_iter().map(|text| Line::of(text, Paint::Dim)));
            }
            let capitals: Vec<String> = (group.choices.iter())
                .map(|choice| choice.key.to_ascii_uppercase().to_string())
                .collect();
            let go_on = "Enter: go on. Ctrl-C: stop the sync.".to_owned();
            let all = format!("{}: answer all of these.", capitals.join(" "));
            // On one line, or each on its own: keys do not stand on two.
            let together = format!("{go_on} {all}");
            let rows = if text::columns(&together) <= width {
                vec![together]
            } else {
                vec![go_on, all]
            };
            let rows = rows.iter().flat_map(|row| wrap(row, width, 0));
            lines.extend(rows.map(|text| Line::of(text, Paint::Dim)));
        }
        lines
    }

    /// What was answered, to stay on the screen.
    pub(super) fn told(&self, look: Look) -> Vec<Line> {
        let mut lines = vec![Line::of(clean(&self.survey.title), Paint::Bold)];
        for group in self
            .survey
            .groups
            .iter()
            .filter(|group| !group.rows.is_empty())
        {
            lines.push(Line::of(clean(&group.heading), Paint::Plain));
            for row in &group.rows {
                let mut line = Line::of("  ", Paint::Plain);
                line.append(answered(group, row, look));
                line.push(clean(&row.text), Paint::Plain);
                lines.push(line);
            }
        }
        lines
    }
}

/// The sign and the word of a row's answer, as wide as the widest of its group.
fn answered(group: &SurveyGroup, row: &SurveyRow, look: Look) -> Line {
    let width = group
        .choices
        .iter()
        .map(|choice| choice.label.chars().count())
        .max();
    let choice: Option<&Choice> = group.choices.get(row.answer);
    let label = choice.map_or("", |choice| choice.label.as_str());
    let (sign, paint) = match choice.map(|choice| choice.key) {
        Some('y') => (look.sign("● ", "+ "), Paint::Good),
        Some('x') => (look.sign("⊘ ", "x "), Paint::Dim),
        _ => (look.sign("○ ", "- "), Paint::Plain),
    };
    let width = width.unwrap_or(0);
    Line::of(format!("{sign}{label:width$}  "), paint)
}

#[cfg(test)]
#[path = "sheet_tests.rs"]
mod tests;
