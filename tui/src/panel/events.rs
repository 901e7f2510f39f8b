//! What happened in the life of pods, containers and the daemon, newest at the bottom ([`super::stream`]).

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;
use sandboxd_api::console::{Event, event};

use super::containers::Containers;
use super::stream::Stream;
use super::table::{self, Head, Table};
use super::{Context, Copied, Effect, Hint, Panel, opened, why_of_pod};
use crate::text;
use crate::theme::WRONG;

const TIME: usize = 12;

/// Narrow, the pod's name stands before the words.
const HEADS: [Head; 3] = [table::left("TIME", TIME), table::left("EVENT", 23), table::left("MESSAGE", 16)];
const WIDE_HEADS: [Head; 5] = [
    table::left("TIME", TIME),
    table::left("EVENT", 23),
    table::left("POD", 28),
    table::left("CONTAINER", 12),
    table::left("MESSAGE", 28),
];
const WIDE: u16 = 112;
/// From this height on the selected event stands under the list in full, on so many lines with a blank one.
const FULL_FROM: u16 = 14;
const FULL: u16 = 4;

#[derive(Debug, Default)]
pub struct Events {
    only_warnings: bool,
    stream: Stream,
    matched: Vec<u64>,
}

impl Events {
    fn refresh(&mut self, cx: &Context<'_>) {
        let warning = |event: &&Event| !self.only_warnings || is_warning(event);
        let matching =
            cx.model.events.iter().filter(warning).filter(|event| cx.shared.event_filter.event(event));
        self.matched = matching.map(|event| event.seq).collect();
    }

    fn selected<'a>(&self, cx: &Context<'a>) -> Option<&'a Event> {
        of(self.stream.selected(&self.matched)?, cx)
    }
}

pub fn is_warning(event: &Event) -> bool {
    event.severity() == event::Severity::Warning
}

/// The selected event, its words in full.
fn full(buf: &mut Buffer, area: Rect, event: &Event, cx: &Context<'_>) {
    let who = match (event.pod_name.as_str(), event.container.as_str()) {
        ("", _) => String::new(),
        (pod, "") => format!("{pod}: "),
        (pod, container) => format!("{pod}, {container}: "),
    };
    let style = if is_warning(event) { cx.theme.bad() } else { cx.theme.plain() };
    let words = text::wrap(&format!("{who}{}", event.message), usize::from(area.width).saturating_sub(4));
    for (y, part) in (area.y..area.bottom()).zip(words) {
        buf.set_string(area.x + 2, y, part, style);
    }
}

/// The time of day, of an event of another day the date.
fn when(time_ns: i64, cx: &Context<'_>) -> String {
    let day = |ns: i64| jiff::Timestamp::from_nanosecond(i128::from(ns)).map(|time| cx.tz.to_datetime(time));
    match (day(time_ns), day(cx.now_ns)) {
        (Ok(time), Ok(now)) if time.date() != now.date() => time.strftime("%b %d %H:%M").to_string(),
        _ => super::checks::clock(time_ns, cx),
    }
}

fn of<'a>(seq: u64, cx: &Context<'a>) -> Option<&'a Event> {
    let index = cx.model.events.binary_search_by_key(&seq, |event| event.seq).ok()?;
    cx.model.events.get(index)
}

impl Panel for Events {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Events".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
        self.refresh(cx);
        let mut state = self.stream.state(&self.matched, theme);
        let what = if self.only_warnings { "warnings only" } else { "all" };
        let kept = text::grouped(cx.model.events.len() as u64);
        state.push_span(Span::styled(
            format!(" {} {what} {} {kept} kept", glyphs.dot, glyphs.dot),
            theme.dim(),
        ));
        if !cx.shared.event_filter.is_empty() {
            let (filter, count) = (cx.shared.event_filter.text(), self.stream.shown(&self.matched).len());
            let words = format!(" {} /{filter} {} {count} match", glyphs.dot, glyphs.dot);
            state.push_span(Span::styled(words, theme.accent()));
        }
        buf.set_line(area.x, area.y, &state, area.width);
        if area.height < 3 {
            return;
        }
        let wide = area.width >= WIDE;
        let table = Table::fit(if wide { &WIDE_HEADS } else { &HEADS }, area.width, TIME);
        let hidden = table.hidden();
        table.heading(buf, Rect { y: area.y + 1, height: 1, ..area }, theme);
        table::not_shown(buf, Rect { y: area.bottom() - 1, height: 1, ..area }, &hidden, theme);
        let below = if area.height >= FULL_FROM { FULL } else { u16::from(!hidden.is_empty()) };
        let list = Rect { y: area.y + 2, height: area.height - 2 - below, ..area };
        if let Some(event) = self.selected(cx).filter(|_| area.height >= FULL_FROM) {
            full(buf, Rect { y: list.bottom() + 1, height: FULL - 1, ..area }, event, cx);
        }
        self.stream.place(list, &self.matched);
        if self.stream.shown(&self.matched).is_empty() {
            let none = if cx.model.events.is_empty() { "nothing happened yet" } else { "no event matches" };
            buf.set_stringn(area.x + 2, list.y, none, usize::from(area.width), theme.dim());
        }
        for (area, seq, selected) in self.stream.visible(&self.matched) {
            let Some(event) = of(seq, cx) else { continue };
            let (sign, style) =
                if is_warning(event) { (WRONG, theme.bad()) } else { (glyphs.dot, theme.plain()) };
            let time = (when(event.time_ns, cx), theme.dim());
            let kind = (format!("{} {}", text::left(sign, 2, ""), event.kind), style);
            let pod = (text::fit_middle(&event.pod_name, 28, glyphs.ellipsis), theme.strong());
            let message = (event.message.clone(), style);
            let cells = if wide {
                vec![time, kind, pod, (event.container.clone(), theme.plain()), message]
            } else {
                let subject = if event.pod_name.is_empty() { "" } else { ": " };
                let name = event.pod_name.split_once('/').map_or(event.pod_name.as_str(), |(_, name)| name);
                let name = text::fit_middle(name, 14, glyphs.ellipsis);
                vec![time, kind, (format!("{name}{subject}{}", event.message), style)]
            };
            table.row(buf, area, cells, selected, theme);
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        self.refresh(cx);
        let newest = cx.model.events.back().map_or(0, |event| event.seq);
        let pod = self.selected(cx).map(|event| event.pod_id.clone()).filter(|id| !id.is_empty());
        match key.code {
            KeyCode::Char('d') if key.modifiers.is_empty() => self.only_warnings = !self.only_warnings,
            KeyCode::Enter => {
                let open = |id: String| Effect::Open(Box::new(Containers::new(&id)));
                return Some(pod.map(open).into_iter().collect());
            }
            KeyCode::Char('w') => {
                return Some(pod.map(|id| why_of_pod(&id, cx)).unwrap_or_default());
            }
            _ => return self.stream.handle_key(key, newest, &self.matched).then(Vec::new),
        }
        Some(Vec::new())
    }

    fn click(&mut self, _column: u16, row: u16, _cx: &Context<'_>) -> Vec<Effect> {
        opened(self.stream.click(row, &self.matched))
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        let event = self.selected(cx)?;
        let words = format!("{} {} {} {}", event.kind, event.pod_name, event.container, event.message);
        Some(Copied::new("the event", &words.split_whitespace().collect::<Vec<_>>().join(" ")))
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Enter", "its pod"),
            ("w", "why"),
            ("space", "pause"),
            ("f", "follow"),
            ("d", "warnings only"),
            ("/", "filter"),
            ("y", "copy it"),
            ("j k", "move"),
        ]
    }
}
