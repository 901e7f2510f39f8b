//! Text for terminals: clean, wrapped, no wider than they are.

use std::io::{self, Write as _};

use super::ClientError;

/// Where a terminal's width is not known.
const WIDTH: usize = 80;

/// Columns to fill: `COLUMNS`, the terminal's own, or 80.
pub(super) fn width() -> usize {
    let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let own = || {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_col))
    };
    named.or_else(own).filter(|columns| *columns >= 20).unwrap_or(WIDTH)
}

/// On one line, without control characters: names of processes and labels come from pods.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_format(c) { ' ' } else { c }).collect()
}

/// Characters that turn or hide what follows them.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text on lines of at most so many columns; words longer than that stay whole.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let length = line.chars().count() + word.chars().count() + 1;
        if !line.is_empty() && length > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// The beginning of a text, with a mark where something is cut off.
pub(super) fn fit(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(columns.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Nanoseconds since the epoch as RFC 3339, all nine digits.
pub(super) fn time(ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(time) => format!("{time:.9}"),
        Err(_) => ns.to_string(),
    }
}

/// The same to the millisecond.
pub(super) fn short_time(ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => ns.to_string(),
    }
}

/// To standard output; a reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), ClientError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(ClientError::Write { to: "standard output".to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_asked_for() {
        let text = "No process is in it.  Descriptor 7 of sleep keeps it: it ends when that process ends.";
        for columns in [10, 20, 40, 80, 200] {
            let lines = wrap(text, columns);
            assert!(lines.iter().all(|line| line.chars().count() <= columns.max(10)), "{columns}: {lines:?}");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&lines.join(" ")), words(text));
        }
        assert_eq!(wrap("", 10), Vec::<String>::new());
        assert_eq!(fit("sandboxd", 8), "sandboxd");
        assert_eq!(fit("sandboxd", 5), "sand…");
    }

    #[test]
    fn what_a_pod_named_cannot_move_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\nc\u{202e}d"), "a [2Jb c d");
    }

    #[test]
    fn times_have_all_their_digits() {
        assert_eq!(time(1_790_000_000_123_456_789), "2026-09-21T14:13:20.123456789Z");
        assert_eq!(time(1_790_000_000_000_000_000), "2026-09-21T14:13:20.000000000Z");
        assert_eq!(short_time(1_790_000_000_123_456_789), "2026-09-21T14:13:20.123Z");
    }
}
