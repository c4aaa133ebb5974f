//! Columns as kubectl prints them: no borders, upper-case headers, three spaces between.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, presets};

use super::escape::Safe;
use super::paint::{Paint, Tone};

/// Rows of cells under headers.
#[derive(Debug)]
pub struct Table {
    table: comfy_table::Table,
    columns: usize,
    rows: usize,
}

/// One cell; whatever is in it is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    text: String,
    tone: Tone,
}

/// A cell without a tone; nothing to say is a dash.
#[must_use]
pub fn field(text: impl ToString) -> Field {
    toned(Tone::Plain, text)
}

/// A cell with a tone.
#[must_use]
pub fn toned(tone: Tone, text: impl ToString) -> Field {
    let text = text.to_string();
    let text = if text.is_empty() { "-".into() } else { Safe(&text).to_string() };
    Field { text, tone }
}

/// A cell for something that may not be there.
#[must_use]
pub fn maybe<T: ToString>(value: Option<T>) -> Field {
    field(value.map_or(String::new(), |value| value.to_string()))
}

impl Table {
    /// Only headers.
    #[must_use]
    pub fn new(headers: &[&str], paint: Paint) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if paint.is_on() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(headers.iter().map(|header| Cell::new(header).add_attribute(Attribute::Bold)));
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        Self { table, columns: headers.len(), rows: 0 }
    }

    /// Adds a row of as many cells as there are headers.
    pub fn row(&mut self, fields: Vec<Field>) {
        debug_assert_eq!(fields.len(), self.columns);
        self.table.add_row(fields.into_iter().map(cell));
        self.rows += 1;
    }

    /// The lines, each with its newline; without rows, a line that says so.
    #[must_use]
    pub fn render(&self, nothing: &str) -> String {
        if self.rows == 0 {
            return format!("{nothing}\n");
        }
        let text = self.table.to_string();
        text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    }
}

fn cell(field: Field) -> Cell {
    let cell = Cell::new(field.text);
    match field.tone {
        Tone::Good => cell.fg(Color::Green),
        Tone::Warn => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
        Tone::Plain => cell,
    }
}
