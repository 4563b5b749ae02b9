//! Numbers, sizes, times and foreign text as people read them on a terminal.

use serde_json::Value;

/// Longer text of others is cut: one hostile name must not fill a screen.
const TEXT_CHARS_MAX: usize = 200;

/// `1234567` as `1,234,567`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.4 MiB`: binary units, as configurations have them.
pub fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{value} B"),
        _ if scaled < 10.0 => format!("{scaled:.1} {unit}"),
        _ => format!("{scaled:.0} {unit}"),
    }
}

/// `3 h 12 min`, its two greatest units.
pub fn age(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let greatest = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, size) in units.iter().skip(greatest).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 || parts.is_empty() {
            parts.push(format!("{count} {name}"));
        }
    }
    parts.join(" ")
}

/// Text that came from outside, without what a terminal would obey.
pub fn plain(text: &str) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == TEXT_CHARS_MAX {
            out.push('…');
            break;
        }
        match is_obeyed(character) {
            true => out.extend(character.escape_unicode()),
            false => out.push(character),
        }
    }
    out
}

/// Control characters, and those that turn the direction of what follows.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text of a JSON value, `-` where there is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub fn count(value: &Value) -> String {
    grouped(number(value))
}

/// Items of a JSON array, none of anything else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Columns as wide as they must be. The first `left` are left-aligned, the others right-aligned.
pub struct Columns {
    left: usize,
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub fn new(left: usize, head: &[&str]) -> Columns {
        Columns {
            left,
            rows: vec![head.iter().map(|&name| name.to_owned()).collect()],
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Lines that begin with `indent`.
    pub fn draw(&self, indent: &str) -> String {
        let wide = |cell: &String| cell.chars().count();
        let column_count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..column_count)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(wide).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::from(indent);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column > 0 {
                    line += "  ";
                }
                let padding = " ".repeat(width - wide(cell));
                match column < self.left {
                    true => line += &format!("{cell}{padding}"),
                    false => line += &format!("{padding}{cell}"),
                }
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (value, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(value), expected);
        }
    }

    #[test]
    fn sizes_and_ages_have_units_that_fit() {
        for (value, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (20 << 30, "20 GiB"),
        ] {
            assert_eq!(bytes(value), expected);
        }
        let ages = [
            (0, "0 s"),
            (61, "1 min 1 s"),
            (3_600, "1 h"),
            (11_530, "3 h 12 min"),
            (90_000, "1 d 1 h"),
        ];
        for (seconds, expected) in ages {
            assert_eq!(age(seconds), expected);
        }
    }

    #[test]
    fn a_terminal_obeys_nothing_of_foreign_text() {
        assert_eq!(
            plain("GET /\u{1b}[2J\u{202e}x\n"),
            "GET /\\u{1b}[2J\\u{202e}x\\u{a}"
        );
        assert_eq!(plain(&"é".repeat(1_000)).chars().count(), TEXT_CHARS_MAX + 1);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut columns = Columns::new(1, &["policy", "kept"]);
        columns.row(["e".to_owned(), "12,000".to_owned()]);
        assert_eq!(columns.draw(" "), " policy    kept\n e       12,000\n");
    }
}
