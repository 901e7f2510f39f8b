//! The first line: connection, observer, losses, degradations. Always on the screen; as the terminal narrows,
//! the least important part goes first and the losses never.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use sandboxd_api::console::observer::State;

use super::Context;
use crate::link::Link;
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug)]
struct Part {
    text: String,
    style: Style,
    /// Stays longest with the smallest number.
    rank: u8,
}

/// The observer's rung and state in words.
pub fn observer(cx: &Context<'_>) -> (String, Style) {
    let (theme, observer) = (cx.theme, &cx.model.observer);
    match observer.state() {
        State::Running => (format!("{} running", observer.rung), theme.good()),
        State::NotBuiltIn => ("! observer not built in".to_owned(), theme.warn()),
        State::Unavailable => (format!("{WRONG} observer unavailable"), theme.bad()),
        State::Disabled => ("! observer disabled".to_owned(), theme.warn()),
        State::Unspecified => ("observer unknown".to_owned(), theme.dim()),
    }
}

pub fn connection(link: &Link, cx: &Context<'_>) -> (String, Style) {
    let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
    let age = |since: i64| text::age(cx.now_ns.saturating_sub(since));
    match link {
        Link::Connecting => (format!("{} connecting", glyphs.creating), theme.warn()),
        Link::Live => (format!("{} live", glyphs.ready), theme.good()),
        Link::Replay => (format!("{} replay", glyphs.ready), theme.accent()),
        Link::Ended => (format!("{} replay ended", glyphs.idle), theme.accent()),
        Link::Waiting { lost_at_ns: Some(lost), .. } => {
            (format!("{WRONG} stale {}", age(*lost)), theme.bad())
        }
        Link::Waiting { .. } => (format!("{WRONG} not connected"), theme.bad()),
    }
}

/// Namespaces that leaked: as last read, else as the events tell.
fn leaked(cx: &Context<'_>) -> usize {
    match cx.answers.readings.namespaces() {
        Some(answer) => answer.namespaces.iter().filter(|space| facts::is_leaked(space)).count(),
        None => cx.model.events.iter().filter(|event| event.kind == "namespace-leaked").count(),
    }
}

fn parts(link: &Link, cx: &Context<'_>) -> Vec<Part> {
    let (theme, model) = (cx.theme, cx.model);
    let mut parts = Vec::new();
    let mut add = |rank, text: String, style| {
        if !text.is_empty() {
            parts.push(Part { text, style, rank });
        }
    };
    add(7, cx.nodes[cx.node.0].name().to_owned(), theme.strong());
    add(9, model.node.kernel.clone(), theme.dim());
    let (connection, style) = connection(link, cx);
    add(0, connection, style);
    let away = cx.nodes.iter().filter(|node| node.is_stale()).count();
    match (cx.several(), away) {
        (false, _) => {}
        (true, 0) => add(2, format!("{} nodes", cx.nodes.len()), theme.plain()),
        (true, away) => add(0, format!("{WRONG} {away} of {} nodes away (N)", cx.nodes.len()), theme.bad()),
    }
    if !model.filled {
        return parts;
    }
    let (observer, style) = observer(cx);
    add(6, observer, style);
    add(8, format!("{} checks", text::grouped(model.observer.seen)), theme.plain());
    match model.observer.lost {
        0 => add(1, "0 lost".to_owned(), theme.dim()),
        lost => add(1, format!("{WRONG} {} lost", text::grouped(lost)), theme.bad()),
    }
    if model.missed > 0 {
        add(2, format!("! {} missed here", text::grouped(model.missed)), theme.warn());
    }
    match leaked(cx) {
        0 => {}
        some => add(3, format!("{WRONG} {some} leaked (6)"), theme.bad()),
    }
    match model.node.degradations.len() + model.observer.degradations.len() {
        0 => {}
        some => add(4, format!("! {some} degraded (8)"), theme.warn()),
    }
    if !model.node.network_ready {
        add(5, format!("{WRONG} no network"), theme.bad());
    }
    parts
}

pub fn draw(buf: &mut Buffer, area: Rect, link: &Link, cx: &Context<'_>) {
    let separator = format!(" {} ", cx.theme.glyphs().dot);
    let gap = text::width(&separator);
    let mut parts = parts(link, cx);
    let total = |parts: &[Part]| {
        1 + parts.iter().map(|part| text::width(&part.text)).sum::<usize>()
            + gap * parts.len().saturating_sub(1)
    };
    while total(&parts) > usize::from(area.width) && parts.len() > 2 {
        let least = parts.iter().map(|part| part.rank).max();
        parts.retain(|part| Some(part.rank) != least);
    }
    let mut line = Line::raw(" ");
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            line.push_span(Span::styled(separator.clone(), cx.theme.dim()));
        }
        line.push_span(Span::styled(part.text, part.style));
    }
    buf.set_line(area.x, area.y, &line, area.width);
}
