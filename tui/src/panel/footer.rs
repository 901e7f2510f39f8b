//! The last line: the keys that matter here, the filter's prompt, or a word about what just happened.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Context, Hint};
use crate::text;

/// The filter while it is typed.
#[derive(Debug)]
pub struct Prompt {
    pub text: String,
    pub error: Option<String>,
    /// What Esc goes back to.
    pub before: String,
}

/// The keys that matter, as many as fit; help and quit always. Where each was drawn, for the mouse.
pub fn hints(buf: &mut Buffer, area: Rect, hints: &[Hint], cx: &Context<'_>) -> Vec<(Rect, char)> {
    const ALWAYS: [Hint; 2] = [("?", "help"), ("q", "quit")];
    let width = |hint: &Hint| text::width(&cx.shared.keys.label(hint.0)) + 1 + text::width(hint.1) + 3;
    let mut room = usize::from(area.width).saturating_sub(ALWAYS.iter().map(width).sum::<usize>());
    let mut line = Line::raw(" ");
    let mut buttons = Vec::new();
    for hint in hints.iter().take_while(|hint| {
        let fits = width(hint) <= room;
        room = room.saturating_sub(width(hint));
        fits
    }) {
        push(&mut line, hint, area, &mut buttons, cx);
    }
    for hint in &ALWAYS {
        push(&mut line, hint, area, &mut buttons, cx);
    }
    buf.set_line(area.x, area.y, &line, area.width);
    buttons
}

fn push(line: &mut Line<'_>, hint: &Hint, area: Rect, buttons: &mut Vec<(Rect, char)>, cx: &Context<'_>) {
    let (x, keys) = (area.x + text::cells(line.width()), cx.shared.keys.label(hint.0));
    let mut chars = hint.0.chars();
    let manual = if hint.0 == "space" { Some(' ') } else { chars.next().filter(|_| chars.next().is_none()) };
    let width = text::cells(text::width(&keys) + 1 + text::width(hint.1));
    buttons.extend(manual.map(|key| (Rect { x, width, height: 1, ..area }, key)));
    line.push_span(Span::styled(keys, cx.theme.heading()));
    line.push_span(Span::styled(format!(" {}   ", hint.1), cx.theme.dim()));
}

pub fn prompt(buf: &mut Buffer, area: Rect, prompt: &Prompt, cx: &Context<'_>) {
    let mut line = Line::from(vec![
        Span::styled(" /", cx.theme.heading()),
        Span::raw(prompt.text.clone()),
        Span::styled(" ", cx.theme.selected()),
    ]);
    match &prompt.error {
        Some(error) => line.push_span(Span::styled(format!("  !! {error}"), cx.theme.bad())),
        None => line.push_span(Span::styled("  Enter keeps, Esc undoes", cx.theme.dim())),
    }
    buf.set_line(area.x, area.y, &line, area.width);
}

pub fn notice(buf: &mut Buffer, area: Rect, words: &str, cx: &Context<'_>) {
    let words = text::fit(words, usize::from(area.width).saturating_sub(1), cx.theme.glyphs().ellipsis);
    buf.set_string(area.x + 1, area.y, words, cx.theme.strong());
}
