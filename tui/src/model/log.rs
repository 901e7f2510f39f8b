//! A container's log as far as it is kept here: bounded by lines and bytes, with the oldest counted as they go.

use std::collections::VecDeque;

use sandboxd_api::console::LogLine;

/// Lines kept.
pub const MAX_LINES: usize = 20_000;
/// Bytes kept, of text.
pub const MAX_BYTES: usize = 8 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Grows by one a line, so that a place stays named while older lines go.
    pub number: u64,
    pub time_ns: i64,
    pub stderr: bool,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Asked for, and followed.
    #[default]
    Open,
    /// The container ended, or was read to its end.
    Ended,
    /// In words.
    Failed(String),
}

#[derive(Debug, Default)]
pub struct Log {
    pub container_id: String,
    pub lines: VecDeque<Line>,
    pub state: State,
    /// Lines that went, as there was no room.
    pub forgotten: u64,
    next: u64,
    bytes: usize,
    /// By stream (stdout, stderr): whether its newest line goes on.
    partial: [bool; 2],
}

impl Log {
    pub fn new(container_id: &str) -> Self {
        Self { container_id: container_id.to_owned(), ..Self::default() }
    }

    pub fn push(&mut self, line: &LogLine) {
        let text = crate::text::clean(&without_escapes(&String::from_utf8_lossy(&line.text)));
        let stream = usize::from(line.stderr);
        let goes_on = std::mem::replace(&mut self.partial[stream], line.partial);
        let before = self.lines.iter_mut().rev().find(|one| one.stderr == line.stderr);
        self.bytes += text.len();
        match before.filter(|one| goes_on && one.text.len() < crate::text::MAX_FIELD) {
            Some(before) => before.text += &text,
            None => {
                let (number, time_ns, stderr) = (self.next, line.time_ns, line.stderr);
                self.next += 1;
                self.lines.push_back(Line { number, time_ns, stderr, text });
            }
        }
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.text.len();
            self.forgotten += 1;
        }
    }

    /// Where the line with this number is, or the one after it.
    pub fn position(&self, number: u64) -> usize {
        self.lines.partition_point(|line| line.number < number)
    }

    pub fn end(&mut self, ended: Result<(), String>) {
        self.state = match ended {
            Ok(()) => State::Ended,
            Err(why) => State::Failed(why),
        };
    }

    /// Open again; from where it goes on, 0 from the start.
    pub fn resume(&mut self) -> i64 {
        self.state = State::Open;
        self.lines.back().map_or(0, |line| line.time_ns.saturating_add(1))
    }
}

/// Drops escape sequences whole: colours are the commonest, and "?[32m" would be noise.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        match chars.next() {
            // CSI: parameters, then one letter.
            Some('[') => drop(chars.by_ref().find(|c| ('\u{40}'..='\u{7e}').contains(c))),
            // OSC: up to BEL or ESC \.
            Some(']') => {
                while let Some(c) = chars.next() {
                    if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    // A carriage return at the end belongs to the newline.
    if out.ends_with('\r') {
        out.pop();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, stderr: bool, partial: bool) -> LogLine {
        LogLine { time_ns: 1, stderr, partial, text: text.as_bytes().to_vec() }
    }

    #[test]
    fn parts_of_a_line_are_joined_by_their_stream() {
        let mut log = Log::new("c");
        log.push(&line("one ", false, true));
        log.push(&line("error", true, false));
        log.push(&line("line", false, false));
        log.push(&line("next", false, false));
        let texts: Vec<_> = log.lines.iter().map(|line| (line.stderr, line.text.as_str())).collect();
        assert_eq!(texts, [(false, "one line"), (true, "error"), (false, "next")]);
    }

    #[test]
    fn the_oldest_lines_go_and_are_counted() {
        let mut log = Log::new("c");
        for number in 0..MAX_LINES + 7 {
            log.push(&line(&number.to_string(), false, false));
        }
        assert_eq!((log.lines.len(), log.forgotten), (MAX_LINES, 7));
        assert_eq!(log.lines.front().unwrap().number, 7);
        assert_eq!(log.position(9), 2);
        assert_eq!(log.position(0), 0);
        let long = "x".repeat(4_000);
        for _ in 0..3_000 {
            log.push(&line(&long, false, false));
        }
        assert!(log.bytes <= MAX_BYTES && log.lines.len() < 2_200, "{} lines", log.lines.len());
    }

    #[test]
    fn escapes_go_and_what_is_left_is_clean() {
        let mut log = Log::new("c");
        log.push(&line("\u{1b}[1;32mok\u{1b}[0m \u{1b}]0;title\u{7}done\r", false, false));
        log.push(&line("\u{9b}2J\u{202e}x", false, false));
        assert_eq!(log.lines[0].text, "ok done");
        assert_eq!(log.lines[1].text, "?2J?x");
    }
}
