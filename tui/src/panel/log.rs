//! The log of a container, followed.
//!
//! ```text
//!             ┌── move up, n, N ──▶ Held (the place stays, new lines are counted) ── G, f ──┐
//!  Following ─┤                                                                            ├─▶ Following
//!             └── space ───▶ Paused (nothing moves, what waits is counted) ── space ───────┘
//! ```

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Context, Effect, Hint, Panel, list};
use crate::actions::Subject;
use crate::model::log::{self, Log, State};
use crate::text;
use crate::theme::WRONG;

#[derive(Debug)]
pub struct LogView {
    container_id: String,
    /// The number of the line at the bottom; `None` follows the newest.
    held: Option<u64>,
    /// The newest line shown while paused.
    paused_at: Option<u64>,
    wrap: bool,
    times: bool,
    /// What is looked for, in lower case; empty: nothing.
    search: String,
    /// The search while it is typed.
    prompt: Option<String>,
    /// Columns the lines are moved to the left, when they are not wrapped.
    shift: usize,
    height: usize,
}

impl LogView {
    pub fn new(container_id: &str) -> Self {
        Self {
            container_id: container_id.to_owned(),
            held: None,
            paused_at: None,
            wrap: false,
            times: false,
            search: String::new(),
            prompt: None,
            shift: 0,
            height: 1,
        }
    }

    fn log<'a>(&self, cx: &Context<'a>) -> Option<&'a Log> {
        cx.answers.log.as_ref().filter(|log| log.container_id == self.container_id)
    }

    /// How many of the lines are shown at all: those after a pause wait.
    fn shown(&self, log: &Log) -> usize {
        self.paused_at.map_or(log.lines.len(), |newest| log.position(newest + 1))
    }

    /// The place of the line at the bottom.
    fn bottom(&self, log: &Log) -> usize {
        let last = self.shown(log).saturating_sub(1);
        self.held.map_or(last, |number| log.position(number).min(last))
    }

    /// Holds the line at this place at the bottom; the last one follows.
    fn hold(&mut self, to: usize, log: &Log) {
        let end = to + 1 >= self.shown(log);
        self.held = if end { None } else { log.lines.get(to).map(|line| line.number) };
    }

    /// Goes to the next line that has what is looked for, up or down.
    fn find(&mut self, down: bool, log: &Log) -> Vec<Effect> {
        if self.search.is_empty() {
            return vec![Effect::Notice("nothing is looked for: / begins a search".to_owned())];
        }
        let (at, shown) = (self.bottom(log), self.shown(log));
        let has = |place: &usize| log.lines[*place].text.to_lowercase().contains(&self.search);
        let found = if down { (at + 1..shown).find(has) } else { (0..at.min(shown)).rev().find(has) };
        match found {
            Some(place) => {
                // At its place also where it is the last one.
                self.held = log.lines.get(place).map(|line| line.number);
                Vec::new()
            }
            None => {
                let way = if down { "below" } else { "above" };
                vec![Effect::Notice(format!("{:?} is not {way}", self.search))]
            }
        }
    }

    fn prompt_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Vec<Effect> {
        let Some(mut typed) = self.prompt.take() else { return Vec::new() };
        match key.code {
            KeyCode::Esc => return Vec::new(),
            KeyCode::Enter => {
                self.search = typed.to_lowercase();
                let Some(log) = self.log(cx).filter(|_| !self.search.is_empty()) else { return Vec::new() };
                // The newest that has it, the one at the bottom included.
                let has = |place: &usize| log.lines[*place].text.to_lowercase().contains(&self.search);
                let found = (0..self.shown(log).min(self.bottom(log) + 1)).rev().find(has);
                match found {
                    Some(place) => self.held = log.lines.get(place).map(|line| line.number),
                    None => return vec![Effect::Notice(format!("{typed:?} is not above"))],
                }
                return Vec::new();
            }
            KeyCode::Backspace if typed.pop().is_none() => return Vec::new(),
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => typed.clear(),
            KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::CONTROL) => typed.push(c),
            _ => {}
        }
        self.prompt = Some(typed);
        Vec::new()
    }

    /// Another container of the same pod.
    fn switch(&mut self, forward: bool, cx: &Context<'_>) {
        let Some(container) = cx.model.containers.get(&self.container_id) else { return };
        let mut siblings: Vec<_> =
            cx.model.containers.values().filter(|one| one.pod_id == container.pod_id).collect();
        siblings.sort_by(|a, b| (a.created_at_ns, &a.name, &a.id).cmp(&(b.created_at_ns, &b.name, &b.id)));
        let at = siblings.iter().position(|one| one.id == self.container_id).unwrap_or(0);
        let step = if forward { 1 } else { siblings.len() - 1 };
        let to = siblings[(at + step) % siblings.len()].id.clone();
        if to != self.container_id {
            let (wrap, times, search) = (self.wrap, self.times, std::mem::take(&mut self.search));
            *self = Self { wrap, times, search, ..Self::new(&to) };
        }
    }

    fn state(&self, log: &Log, cx: &Context<'_>) -> Line<'static> {
        let (theme, dot) = (cx.theme, cx.theme.glyphs().dot);
        let mut line = Line::default();
        let newer = log.lines.len().saturating_sub(self.bottom(log) + 1) as u64;
        match (self.paused_at, self.held, &log.state) {
            (Some(_), _, _) => {
                let waiting = text::grouped((log.lines.len() - self.shown(log)) as u64);
                line.push_span(Span::styled(format!(" paused {dot} {waiting} waiting"), theme.bad()));
            }
            (None, Some(_), _) => line.push_span(Span::styled(
                format!(" held {dot} {} newer below", text::grouped(newer)),
                theme.warn(),
            )),
            (None, None, State::Open) => line.push_span(Span::styled(" following", theme.good())),
            (None, None, _) => line.push_span(Span::styled(" the end", theme.plain())),
        }
        match &log.state {
            State::Open => {}
            State::Ended => line.push_span(Span::styled(format!(" {dot} ended"), theme.dim())),
            State::Failed(why) => line.push_span(Span::styled(format!(" {dot} {WRONG} {why}"), theme.bad())),
        }
        line.push_span(Span::styled(
            format!(" {dot} {}", text::plural(log.lines.len(), "line")),
            theme.dim(),
        ));
        if log.forgotten > 0 {
            let gone = format!(" {dot} ! {} older not kept", text::grouped(log.forgotten));
            line.push_span(Span::styled(gone, theme.warn()));
        }
        if !self.search.is_empty() {
            line.push_span(Span::styled(format!(" {dot} /{}", self.search), theme.accent()));
        }
        line
    }

    /// One line of the log in as many of the screen as it takes.
    fn lines(&self, line: &log::Line, width: usize, cx: &Context<'_>) -> Vec<Line<'static>> {
        let theme = cx.theme;
        // What came by stderr has its own sign: colour is never the only cue.
        let (sign, style) = if line.stderr { ("E ", theme.bad()) } else { ("  ", theme.plain()) };
        let time = if self.times { super::checks::clock(line.time_ns, cx) + "  " } else { String::new() };
        let room = width.saturating_sub(2 + time.len()).max(1);
        let parts = if self.wrap { chunks(&line.text, room) } else { vec![skip(&line.text, self.shift)] };
        let mut out = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let (sign, time) = if index == 0 { (sign, time.clone()) } else { ("  ", " ".repeat(time.len())) };
            let mut spans = vec![Span::styled(sign, style), Span::styled(time, theme.dim())];
            let part = text::fit(&part, room, theme.glyphs().ellipsis);
            spans.extend(marked(&part, &self.search, theme.plain(), theme.selected()));
            out.push(Line::from(spans));
        }
        out
    }
}

/// `text` in pieces of at most `columns`, cut anywhere: logs are read as they are.
fn chunks(text: &str, columns: usize) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let head = text::fit(rest, columns, "");
        if head.is_empty() || head.len() == rest.len() {
            out.push(rest.to_owned());
            return out;
        }
        rest = &rest[head.len()..];
        out.push(head);
    }
}

/// `text` without its first `columns`.
fn skip(text: &str, columns: usize) -> String {
    let head = text::fit(text, columns, "");
    text[head.len().min(text.len())..].to_owned()
}

/// The text with what is looked for set off.
fn marked(text: &str, search: &str, plain: Style, mark: Style) -> Vec<Span<'static>> {
    let lower = text.to_lowercase();
    // Where lower case has other lengths, places of the one are none of the other.
    if search.is_empty() || lower.len() != text.len() {
        return vec![Span::styled(text.to_owned(), plain)];
    }
    let mut spans = Vec::new();
    let mut from = 0;
    for (at, _) in lower.match_indices(search) {
        let end = at + search.len();
        if let (Some(before), Some(hit)) = (text.get(from..at), text.get(at..end)) {
            spans.push(Span::styled(before.to_owned(), plain));
            spans.push(Span::styled(hit.to_owned(), mark));
            from = end;
        }
    }
    spans.push(Span::styled(text[from..].to_owned(), plain));
    spans
}

impl Panel for LogView {
    fn title(&self, cx: &Context<'_>) -> String {
        match cx.model.containers.get(&self.container_id) {
            Some(container) => format!("log of {}", container.name),
            None => "log of a container that is gone".to_owned(),
        }
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        let Some(log) = self.log(cx) else {
            buf.set_stringn(area.x + 1, area.y, "asking the daemon", usize::from(area.width), theme.dim());
            return;
        };
        let head = match &self.prompt {
            Some(typed) => Line::from(vec![
                Span::styled(" /", theme.heading()),
                Span::raw(typed.clone()),
                Span::styled(" ", theme.selected()),
                Span::styled("  Enter looks upwards, Esc undoes", theme.dim()),
            ]),
            None => self.state(log, cx),
        };
        buf.set_line(area.x, area.y, &head, area.width);
        self.height = usize::from(area.height.saturating_sub(1));
        if self.shown(log) == 0 {
            let words = match &log.state {
                State::Open => "no lines yet",
                State::Ended => "the log is empty",
                State::Failed(_) => "",
            };
            buf.set_stringn(area.x + 2, area.y + 1, words, usize::from(area.width), theme.dim());
            return;
        }
        // From the bottom upwards, only as many as there is room for. What is at the beginning fills the screen.
        let mut drawn: Vec<Line<'_>> = Vec::new();
        let bottom = self.bottom(log);
        for place in (0..=bottom).rev() {
            if drawn.len() >= self.height {
                break;
            }
            drawn.extend(self.lines(&log.lines[place], usize::from(area.width), cx).into_iter().rev());
        }
        drawn.truncate(self.height);
        drawn.reverse();
        for place in bottom + 1..self.shown(log) {
            if drawn.len() >= self.height {
                break;
            }
            drawn.extend(self.lines(&log.lines[place], usize::from(area.width), cx));
        }
        for (y, line) in (area.y + 1..area.bottom()).zip(&drawn) {
            buf.set_line(area.x, y, line, area.width);
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        if self.prompt.is_some() {
            return Some(self.prompt_key(key, cx));
        }
        match key.code {
            KeyCode::Char('/') => self.prompt = Some(String::new()),
            KeyCode::Char('w') => self.wrap = !self.wrap,
            KeyCode::Char('t') => self.times = !self.times,
            KeyCode::Char('[') => self.switch(false, cx),
            KeyCode::Char(']') => self.switch(true, cx),
            KeyCode::Left => self.shift = self.shift.saturating_sub(16),
            KeyCode::Right if !self.wrap => self.shift = self.shift.saturating_add(16).min(text::MAX_FIELD),
            KeyCode::Char('f') if key.modifiers.is_empty() => {
                self.held = None;
                self.paused_at = None;
            }
            KeyCode::Char('l') => {}
            _ => {
                let log = self.log(cx)?;
                match key.code {
                    KeyCode::Char(' ' | 'p') => {
                        let newest = log.lines.back().map_or(0, |line| line.number);
                        self.paused_at = if self.paused_at.is_some() { None } else { Some(newest) };
                    }
                    KeyCode::Char('n') => return Some(self.find(true, log)),
                    KeyCode::Char('N') => return Some(self.find(false, log)),
                    _ => {
                        let to = list::moved(key, self.bottom(log), self.shown(log), self.height)?;
                        // The beginning is at the top of a full screen.
                        let first = matches!(key.code, KeyCode::Char('g') | KeyCode::Home);
                        let to = if first { self.height.saturating_sub(1) } else { to };
                        self.hold(to, log);
                    }
                }
            }
        }
        Some(Vec::new())
    }

    fn captures(&self) -> bool {
        self.prompt.is_some()
    }

    fn subject(&self, _cx: &Context<'_>) -> Option<Subject> {
        Some(Subject::Container(self.container_id.clone()))
    }

    fn follows(&self) -> Option<&str> {
        Some(&self.container_id)
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Esc", "back"),
            ("space", "pause"),
            ("f", "follow"),
            ("/", "search up"),
            ("n N", "match below, above"),
            ("w", "wrap"),
            ("t", "times"),
            ("[ ]", "other container"),
            ("j k", "scroll"),
            ("← →", "shift"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_by_columns_and_shifted() {
        assert_eq!(chunks("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(chunks("日本語", 4), ["日本", "語"]);
        assert_eq!(chunks("", 4), [""]);
        assert_eq!(chunks("日", 1), ["日"]);
        assert_eq!(skip("abcdef", 2), "cdef");
        assert_eq!(skip("ab", 16), "");
    }

    #[test]
    fn what_is_looked_for_is_set_off() {
        let mark = Style::new().add_modifier(ratatui::style::Modifier::REVERSED);
        let spans = marked("an Error here", "error", Style::new(), mark);
        let texts: Vec<_> = spans.iter().map(|span| (span.content.as_ref(), span.style == mark)).collect();
        assert_eq!(texts, [("an ", false), ("Error", true), (" here", false)]);
        assert_eq!(marked("x", "", Style::new(), mark).len(), 1);
    }
}
