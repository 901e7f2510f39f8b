//! The stream of capability checks, newest at the bottom ([`super::stream`]).

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{Check, check};

use super::stream::Stream;
use super::table;
use super::{Context, Copied, Effect, Hint, Panel, why_of_check};
use crate::fleet::NodeId;
use crate::model::facts;
use crate::text;

#[derive(Debug, Default)]
pub struct Checks {
    denied_only: bool,
    stream: Stream,
    matched: Matched,
}

/// Sequence numbers of the checks that pass the filter, kept up to date as checks come in, so that a frame
/// costs what is new and visible, not the whole history.
#[derive(Debug, Default)]
struct Matched {
    key: (NodeId, String, bool, i64),
    scanned_to: u64,
    seqs: Vec<u64>,
}

impl Matched {
    fn update(&mut self, denied_only: bool, cx: &Context<'_>) {
        let filter = &cx.shared.check_filter;
        let key = (cx.node, filter.text().to_owned(), denied_only, cx.model.node.started_at_ns);
        if key != self.key {
            *self = Self { key, ..Self::default() };
        }
        let oldest = cx.model.checks.front().map_or(u64::MAX, |check| check.seq);
        let forgotten = self.seqs.partition_point(|seq| *seq < oldest);
        self.seqs.drain(..forgotten);
        let from = cx.model.checks.partition_point(|check| check.seq <= self.scanned_to);
        for check in cx.model.checks.range(from..) {
            if (!denied_only || facts::is_denied(check)) && filter.check(check, cx.model) {
                self.seqs.push(check.seq);
            }
            self.scanned_to = check.seq;
        }
    }
}

impl Checks {
    /// Shows everything again and follows it; a filter set from elsewhere must not stay hidden by a pause.
    pub fn follow(&mut self) {
        self.stream.follow();
        self.denied_only = false;
    }

    fn selected(&self) -> Option<u64> {
        self.stream.selected(&self.matched.seqs)
    }

    fn state(&self, cx: &Context<'_>) -> Line<'static> {
        let (theme, dot) = (cx.theme, cx.theme.glyphs().dot);
        let mut line = self.stream.state(&self.matched.seqs, theme);
        let what = if self.denied_only { "denied only" } else { "all" };
        line.push_span(Span::styled(
            format!(" {dot} {what} {dot} {} kept", text::grouped(cx.model.checks.len() as u64)),
            theme.dim(),
        ));
        if !cx.shared.check_filter.is_empty() {
            let matching = self.stream.shown(&self.matched.seqs).len();
            line.push_span(Span::styled(
                format!(" {dot} /{} {dot} {matching} match", cx.shared.check_filter.text()),
                theme.accent(),
            ));
        }
        line
    }
}

impl Panel for Checks {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Checks".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        self.matched.update(self.denied_only, cx);
        buf.set_line(area.x, area.y, &self.state(cx), area.width);
        if area.height < 3 {
            return;
        }
        let head = Rect { y: area.y + 1, height: 1, ..area };
        heading(buf, head, cx);
        let narrow = u16::from(area.width < NARROW && area.height > 4);
        if narrow == 1 {
            let hidden = ["POD", "CAPABILITY", "IN USERNS", "REASON"];
            table::not_shown(buf, Rect { y: area.bottom() - 1, height: 1, ..area }, &hidden, cx.theme);
        }
        let list = Rect { y: area.y + 2, height: area.height - 2 - narrow, ..area };
        self.stream.place(list, &self.matched.seqs);
        if self.stream.shown(&self.matched.seqs).is_empty() {
            let none = "no capability checks recorded yet: they appear as pods are made";
            let none = if cx.model.checks.is_empty() { none } else { "no check matches" };
            buf.set_stringn(area.x + 2, list.y, none, usize::from(area.width), cx.theme.dim());
        }
        for (area, seq, selected) in self.stream.visible(&self.matched.seqs) {
            let Some(check) = cx.model.check(seq) else { continue };
            row(buf, area, check, selected, cx);
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        self.matched.update(self.denied_only, cx);
        let newest = cx.model.checks.back().map_or(0, |check| check.seq);
        match key.code {
            KeyCode::Char('d') if key.modifiers.is_empty() => self.denied_only = !self.denied_only,
            KeyCode::Char('w') | KeyCode::Enter => {
                return Some(self.selected().map(|seq| why_of_check(seq, cx)).unwrap_or_default());
            }
            _ => return self.stream.handle_key(key, newest, &self.matched.seqs).then(Vec::new),
        }
        Some(Vec::new())
    }

    fn click(&mut self, _column: u16, row: u16, _cx: &Context<'_>) -> Vec<Effect> {
        super::opened(self.stream.click(row, &self.matched.seqs))
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        let check = cx.model.check(self.selected()?)?;
        let who = format!("{} {} ({})", check.pod_name, check.comm, check.pid);
        let what = format!("{}: {} {}", facts::call(check), check.capability_name, facts::verdict(check));
        Some(Copied::new("the check", format!("{} {what} {}", who.trim_start(), check.reason).trim_end()))
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("w", "why"),
            ("space", "pause"),
            ("f", "follow"),
            ("d", "denied only"),
            ("/", "filter"),
            ("j k", "move"),
        ]
    }
}

/// Below this width the pod and the capability are not shown.
const NARROW: u16 = 60;
/// From these widths on the target, the reason, and whole pod names are shown.
const TARGET: u16 = 90;
const REASON: u16 = 116;
const WIDE: u16 = 136;

/// Widths of the pod and of the call.
fn widths(width: u16) -> (usize, usize) {
    match width {
        0..NARROW => (0, 12),
        NARROW..WIDE => (18, 14),
        _ => (28, 16),
    }
}

pub fn heading(buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
    let (pod, call) = widths(area.width);
    let mut text = format!("  {:<12}  {:<9}  ", "TIME", "VERDICT");
    if pod > 0 {
        text += &format!("{:<pod$}  ", "POD");
    }
    text += &format!("{:<call$}  {:<12}  ", "CALL", "CAPABILITY");
    if area.width >= TARGET {
        text += &format!("{:<10}  ", "IN USERNS");
    }
    if area.width >= REASON {
        text += "REASON";
    }
    buf.set_stringn(area.x, area.y, text, usize::from(area.width), cx.theme.heading());
}

/// One check in one line.
pub fn row(buf: &mut Buffer, area: Rect, check: &Check, selected: bool, cx: &Context<'_>) {
    let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
    let (sign, style) = match check.verdict() {
        check::Verdict::Allowed => (glyphs.dot, theme.dim()),
        check::Verdict::Denied | check::Verdict::Refused => (glyphs.failed, theme.bad()),
        check::Verdict::Unspecified | check::Verdict::Failed => ("?", theme.warn()),
    };
    let fit = |value: &str, columns: usize| text::left(value, columns, glyphs.ellipsis) + "  ";
    let (pod, call) = widths(area.width);
    let pointer = if selected { glyphs.pointer } else { " " };
    let mut line = Line::from(vec![
        Span::raw(text::left(pointer, 2, "")),
        Span::styled(fit(&clock(check.time_ns, cx), 12), theme.dim()),
        Span::styled(fit(&format!("{sign} {}", facts::verdict(check)), 9), style),
    ]);
    if pod > 0 {
        let who = if check.pod_name.is_empty() {
            format!("{} ({})", check.comm, check.pid)
        } else {
            check.pod_name.clone()
        };
        line.push_span(Span::raw(fit(&text::fit_middle(&who, pod, glyphs.ellipsis), pod)));
    }
    line.push_span(Span::raw(fit(&facts::call(check), call)));
    line.push_span(Span::raw(fit(&facts::capability(check), 12)));
    if area.width >= TARGET {
        line.push_span(Span::raw(fit(&facts::target(check, &cx.model.node), 10)));
    }
    if area.width >= REASON {
        line.push_span(Span::styled(check.reason.clone(), style));
    }
    buf.set_line(area.x, area.y, &line, area.width);
    if selected {
        buf.set_style(area, theme.selected());
    }
}

/// Time of day to the millisecond.
pub fn clock(time_ns: i64, cx: &Context<'_>) -> String {
    let Ok(time) = jiff::Timestamp::from_nanosecond(i128::from(time_ns)) else {
        return "?".to_owned();
    };
    cx.tz.to_datetime(time).strftime("%H:%M:%S%.3f").to_string()
}

/// The newest checks that fit, without a selection: the stream at a glance under another view.
pub fn tail(buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
    heading(buf, Rect { height: 1, ..area }, cx);
    let rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    if cx.model.checks.is_empty() {
        buf.set_stringn(
            rows.x + 2,
            rows.y,
            "no capability checks recorded yet",
            usize::from(area.width).saturating_sub(2),
            cx.theme.dim(),
        );
    }
    let skipped = cx.model.checks.len().saturating_sub(usize::from(rows.height));
    for (y, check) in (rows.y..rows.bottom()).zip(cx.model.checks.iter().skip(skipped)) {
        row(buf, Rect { y, height: 1, ..rows }, check, false, cx);
    }
}
