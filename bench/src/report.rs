//! What a benchmark leaves behind: a table for people, and one JSON object for programs as the last line.

use anyhow::Result;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table, TableComponent};
use serde::Serialize;

/// A table with these headings; all columns but the first are right-aligned.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(headings);
    for line in [TableComponent::HorizontalLines, TableComponent::MiddleIntersections] {
        table.remove_style(line);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Prints `value` as one line if it was asked for.
pub fn json(wanted: bool, value: &impl Serialize) -> Result<()> {
    if wanted {
        println!("{}", serde_json::to_string(value)?);
    }
    Ok(())
}

/// Milliseconds for people.
pub fn ms(value: f64) -> String {
    match value {
        value if value.is_nan() => "-".to_owned(),
        value if value < 10.0 => format!("{value:.3}"),
        value => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_readable() {
        assert_eq!((ms(0.42), ms(1017.26), ms(f64::NAN)), ("0.420".into(), "1017.3".into(), "-".to_string()));
    }
}
