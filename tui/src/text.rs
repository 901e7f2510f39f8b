//! Text for the screen: cleaning what pods wrote, fitting it into columns, and units.
//!
//! Names, command names and messages come from pods, whose authors may be hostile: a process can call itself
//! "\x1b]0;…" or hide text behind bidirectional marks. Everything passes [`clean`] before it is kept.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The longest text kept of any one field, in characters; longer ones are cut with an ellipsis.
pub const MAX_FIELD: usize = 4096;

/// Replaces what could move the cursor, reorder or hide text: control characters, bidirectional marks, and
/// everything without a width of its own. Tabs and newlines become spaces.
pub fn clean(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(MAX_FIELD)
        .map(|c| match c {
            '\t' | '\n' => ' ',
            // LINE and PARAGRAPH SEPARATOR have a width and still break lines in some terminals.
            '\u{2028}' | '\u{2029}' => '?',
            c if c.is_control() || c.width().unwrap_or(0) == 0 => '?',
            c => c,
        })
        .collect();
    if text.chars().nth(MAX_FIELD).is_some() {
        out.push('…');
    }
    out
}

/// Escapes, inside a JSON text, the characters that JSON allows raw and a terminal may obey (DEL, C1,
/// bidirectional marks). Outside strings JSON is ASCII, so the result is the same document.
pub fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\u{7f}' || (!c.is_ascii() && (c.is_control() || c.width().unwrap_or(0) == 0)) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Columns `text` takes on the screen.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` in at most `columns`, cut with `ellipsis` where it is longer.
pub fn fit(text: &str, columns: usize, ellipsis: &str) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(width(ellipsis));
    let mut used = 0;
    let mut out = String::new();
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide > room {
            break;
        }
        used += wide;
        out.push(c);
    }
    if columns >= width(ellipsis) {
        out.push_str(ellipsis);
    }
    out
}

/// `text` in at most `columns`, cut in its middle: names differ at their ends.
pub fn fit_middle(text: &str, columns: usize, ellipsis: &str) -> String {
    if width(text) <= columns || columns < 8 {
        return fit(text, columns, ellipsis);
    }
    let tail_room = (columns - width(ellipsis)) / 2;
    let mut tail = text.len();
    let mut used = 0;
    for (index, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > tail_room {
            break;
        }
        tail = index;
    }
    let tail = &text[tail..];
    fit(text, columns - width(ellipsis) - width(tail), "") + ellipsis + tail
}

/// `text` in exactly `columns`, left-aligned.
pub fn left(text: &str, columns: usize, ellipsis: &str) -> String {
    let fitted = fit(text, columns, ellipsis);
    let pad = columns.saturating_sub(width(&fitted));
    fitted + &" ".repeat(pad)
}

/// `text` in exactly `columns`, right-aligned.
pub fn right(text: &str, columns: usize, ellipsis: &str) -> String {
    let fitted = fit(text, columns, ellipsis);
    " ".repeat(columns.saturating_sub(width(&fitted))) + &fitted
}

/// Words of `text` in lines of at most `columns`; a word longer than a line is broken.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        if !line.is_empty() && width(&line) + 1 + width(&word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        while width(&word) > columns {
            let head = fit(&word, columns, "");
            if head.is_empty() {
                break;
            }
            word = word.split_off(head.len());
            lines.push(head);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// A time span of `ns` nanoseconds in its largest unit: `12s`, `5m`, `3h`, `40d`. Never negative.
pub fn age(ns: i64) -> String {
    let seconds = ns.max(0) / 1_000_000_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Nanoseconds as milliseconds with one decimal: `40.1`.
pub fn millis(ns: u64) -> String {
    let tenths = ns.saturating_add(50_000) / 100_000;
    format!("{}.{}", grouped(tenths / 10), tenths % 10)
}

/// A count with its thousands grouped: `1,204`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the largest unit that leaves a number before the point: `17.3 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10;
    let mut unit = 0;
    tenths /= 1024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths {
        0..1_000 => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{} {}", tenths / 10, UNITS[unit]),
    }
}

/// "1 pod", "2 pods".
pub fn plural(count: usize, one: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {one}{s}", grouped(count as u64))
}

/// Screen cells as the terminal counts them.
pub fn cells(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_writes_cannot_reach_the_terminal() {
        assert_eq!(clean("\u{1b}]0;owned\u{7}x"), "?]0;owned?x");
        assert_eq!(clean("a\u{9b}2Jb\u{7f}"), "a?2Jb?");
        assert_eq!(clean("evil\u{202e}txt\u{2066}\u{200b}"), "evil?txt??");
        assert_eq!(clean("two\nlines\tand a tab"), "two lines and a tab");
        assert_eq!(clean("naïve 日本"), "naïve 日本");
        assert_eq!(clean(&"x".repeat(MAX_FIELD + 1)).chars().count(), MAX_FIELD + 1);
    }

    #[test]
    fn json_stays_the_same_document_without_raw_controls() {
        let raw = serde_json::to_string("a\u{7f}\u{9b}\u{202e}é").unwrap();
        let escaped = escape_json(&raw);
        assert!(escaped.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), "a\u{7f}\u{9b}\u{202e}é");
    }

    #[test]
    fn columns_are_exact_also_with_wide_characters() {
        assert_eq!(left("日本語", 5, "…"), "日本…");
        assert_eq!(left("日本語", 4, "…"), "日… ");
        assert_eq!(right("12", 4, "…"), "  12");
        assert_eq!(fit("abc", 0, "…"), "");
        assert_eq!(fit_middle("web-5b9c4f7d8-kx4tz", 15, "…"), "web-5b9…8-kx4tz");
        assert_eq!(width(&fit_middle("日本語日本語日本語", 9, "…")), 9);
        assert_eq!(fit_middle("short", 15, "…"), "short");
    }

    #[test]
    fn wrapping_breaks_at_words_and_cuts_long_ones() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh i", 3), ["abc", "def", "gh", "i"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn units() {
        let second = 1_000_000_000;
        assert_eq!(age(-5), "0s");
        assert_eq!(age(59 * second), "59s");
        assert_eq!(age(3_599 * second), "59m");
        assert_eq!(age(200_000 * second), "2d");
        assert_eq!(millis(40_149_999), "40.1");
        assert_eq!(millis(1_234_950_000), "1,235.0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(bytes(u64::MAX), "16383 PiB");
    }
}
