//! A survey in windows of all sizes, answered by keys.

use super::super::live::memory::MemoryScreen;
use super::super::live::{Live, Screen as _};
use super::*;

const LOOK: Look = Look {
    color: false,
    unicode: true,
};

fn survey(installs: usize) -> Survey {
    let choice = |key, label: &str| Choice {
        key,
        label: label.to_owned(),
        effect: format!("what {label} does, in more words than fit into a narrow window"),
    };
    let choices = vec![choice('y', "yes"), choice('n', "no"), choice('x', "never")];
    let row = |text: String, answer| SurveyRow {
        text,
        answer,
        ..SurveyRow::default()
    };
    let mut rows: Vec<SurveyRow> = (0..installs)
        .map(|n| {
            row(
                format!("package-{n} 1.0 from https://a.long.vendor.example/apt"),
                0,
            )
        })
        .collect();
    rows.push(SurveyRow {
        alone: true,
        answer: 1,
        detail: vec!["also removes what was asked for there: \u{1b}[2Jkeep".to_owned()],
        ..row("swap".to_owned(), 1)
    });
    Survey {
        title: "Software for vega".to_owned(),
        groups: vec![
            SurveyGroup {
                heading: "Install on vega".to_owned(),
                choices: choices.clone(),
                rows,
            },
            SurveyGroup::default(),
            SurveyGroup {
                heading: "Remove from vega".to_owned(),
                choices,
                rows: vec![row("nano".to_owned(), 1)],
            },
        ],
    }
}

fn press(sheet: &mut Sheet, keys: &str) {
    for key in keys.chars() {
        assert_eq!(sheet.press(Key::Char(key)), Turn::More);
    }
}

#[test]
fn keys_answer_rows_and_capitals_whole_groups() {
    let mut sheet = Sheet::new(survey(2));
    assert_eq!(
        sheet.answers(),
        [vec![0, 0, 1], vec![], vec![1]],
        "as it begins"
    );
    press(&mut sheet, "xn");
    assert_eq!(sheet.answers()[0], [2, 1, 1]);
    press(&mut sheet, "Y");
    assert_eq!(
        sheet.answers()[0],
        [0, 0, 1],
        "what is answered by itself stays"
    );
    press(&mut sheet, "yyyyy?z");
    assert_eq!(sheet.answers(), [vec![0, 0, 0], vec![], vec![0]]);
    press(&mut sheet, "  ");
    assert_eq!(sheet.answers()[2], [2]);
    assert_eq!(sheet.press(Key::Up), Turn::More);
    press(&mut sheet, " ");
    assert_eq!(sheet.answers()[0], [0, 0, 1]);
    assert_eq!(sheet.press(Key::Enter), Turn::Done);
}

#[test]
fn every_window_shows_the_row_under_the_cursor_and_no_line_wraps() {
    for (rows, columns) in [(24, 80), (24, 40), (12, 40), (50, 200), (8, 20)] {
        let mut screen = MemoryScreen::new(rows, columns);
        let mut sheet = Sheet::new(survey(60));
        let mut live = Live::default();
        for step in 0..64 {
            sheet.fit_into(screen.size());
            live.draw(
                &mut screen,
                LOOK,
                &[],
                sheet.lines((rows.into(), columns.into()), LOOK),
            );
            let text = screen.text();
            assert!(text.contains('❯'), "{rows}x{columns} step {step}:\n{text}");
            assert_eq!(screen.wrapped_rows(), 0, "{rows}x{columns}:\n{text}");
            sheet.press(Key::Down);
        }
        assert!(
            !screen.raw().contains("\u{1b}[2J"),
            "others' text cannot move the cursor"
        );
        sheet.press(Key::Home);
        sheet.press(Key::PageDown);
        sheet.press(Key::End);
        sheet.press(Key::PageUp);
        live.draw(
            &mut screen,
            LOOK,
            &[],
            sheet.lines((rows.into(), columns.into()), LOOK),
        );
        assert!(screen.text().contains('❯'));
    }
}

#[test]
fn consequences_and_effects_are_told_of_the_row_under_the_cursor() {
    let mut sheet = Sheet::new(survey(1));
    sheet.press(Key::Down);
    let text: Vec<String> = (sheet.lines((40, 100), LOOK).iter())
        .map(|line| line.render(LOOK))
        .collect();
    let text = text.join("\n");
    for words in [
        "also removes what was asked for there",
        "what never does",
        "Y N X",
        "Install on vega (2)",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}
