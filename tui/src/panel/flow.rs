//! The sandbox flow of the selected pod: its steps in order, each where and as long as it ran, with CNI's share.

use crossterm::event::KeyEvent;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{Pod, Step, Timeline};

use super::pods::{Pods, pod_key};
use super::{Context, Copied, Effect, Hint, Panel};
use crate::actions::Subject;
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug, Default)]
pub struct Flow {
    /// Moves through the pods as the table does.
    pods: Pods,
}

/// The pod's timeline, as it came with it or as it was asked for.
pub fn timeline<'a>(pod: &'a Pod, cx: &'a Context<'_>) -> Option<&'a Timeline> {
    let asked = cx.answers.timelines.get(&pod.id).and_then(|answer| answer.as_ref().ok());
    pod.timeline.as_ref().filter(|timeline| !timeline.steps.is_empty()).or(asked)
}

/// Columns before the bars: name, start, time.
const LEGEND: usize = 2 + 12 + 9 + 12;
/// The column of CNI's share, and from which width on it is shown.
const CNI: usize = 9;
const CNI_FROM: u16 = 70;

/// The whole timeline as lines, bars as wide as `width` allows.
pub fn lines(timeline: &Timeline, width: u16, cx: &Context<'_>) -> Vec<Line<'static>> {
    let theme = cx.theme;
    let cni = if width >= CNI_FROM { CNI } else { 0 };
    let cell = |text: &str| if cni > 0 { format!("{text:>cni$}") } else { String::new() };
    let heading = format!("  {:<12}{:>9}{:>12}{}", "STEP", "AT ms", "TOOK ms", cell("CNI ms"));
    let mut lines = vec![Line::styled(heading, theme.heading())];
    let begin = timeline.steps.iter().map(|step| step.started_at_ns).min().unwrap_or(0);
    let after = |step: &Step| u64::try_from(step.started_at_ns.saturating_sub(begin)).unwrap_or(0);
    let ends = timeline.steps.iter().map(|step| after(step).saturating_add(step.duration_ns));
    let whole = ends.max().unwrap_or(0).max(timeline.total_ns).max(1);
    let room = usize::from(width).saturating_sub(LEGEND + cni + 3);
    for step in &timeline.steps {
        let name = text::left(&step.name, 12, theme.glyphs().ellipsis);
        let mut spans = vec![
            Span::styled(
                format!("  {name}"),
                if step.error.is_empty() { theme.strong() } else { theme.bad() },
            ),
            Span::styled(format!("{:>9}", text::millis(after(step))), theme.dim()),
            Span::raw(format!("{:>12}", text::millis(step.duration_ns))),
        ];
        let share = if step.cni_ns > 0 { text::millis(step.cni_ns) } else { String::new() };
        spans.push(Span::styled(cell(&share) + "  ", theme.warn()));
        let bar = Bar::new(after(step), step, whole, room);
        spans.push(Span::raw(" ".repeat(bar.before)));
        spans.push(Span::styled(theme.glyphs().own_bar.repeat(bar.own), theme.accent()));
        spans.push(Span::styled(theme.glyphs().cni_bar.repeat(bar.cni), theme.warn()));
        lines.push(Line::from(spans));
    }
    lines
}

/// A step's bar, in cells.
#[derive(Debug, PartialEq, Eq)]
struct Bar {
    before: usize,
    own: usize,
    cni: usize,
}

impl Bar {
    /// A step that ran has at least one cell, and so has CNI's share of it.
    fn new(after: u64, step: &Step, whole: u64, room: usize) -> Self {
        let cells = |ns: u64| {
            let scaled = u128::from(ns) * room as u128 * 2 / u128::from(whole);
            usize::try_from(scaled.div_ceil(2)).unwrap_or(room).min(room)
        };
        let before = (u128::from(after) * room as u128 * 2 / u128::from(whole)).div_ceil(2);
        let before = usize::try_from(before).unwrap_or(room);
        let before = before.min(room.saturating_sub(1));
        let least = usize::from(room > 0 && step.duration_ns > 0);
        let total = cells(step.duration_ns).clamp(least, (room - before).max(least));
        let cni = cells(step.cni_ns.min(step.duration_ns)).min(total);
        // What sandboxd itself took of a step that is nearly all CNI stays visible where there is room for it.
        let cni = if cni == total && step.cni_ns < step.duration_ns && total > 1 { cni - 1 } else { cni };
        Self { before, own: total - cni, cni }
    }
}

/// "runtime-first · 47.3 ms, CNI 40.1 of them (85 %)".
pub fn summary(timeline: &Timeline, cx: &Context<'_>) -> String {
    let dot = cx.theme.glyphs().dot;
    let cni: u64 = timeline.steps.iter().map(|step| step.cni_ns).sum();
    let share = u128::from(cni) * 100 / u128::from(timeline.total_ns.max(1));
    let total = text::millis(timeline.total_ns);
    let own = text::millis(timeline.total_ns.saturating_sub(cni));
    let cni = text::millis(cni);
    format!("{} {dot} {total} ms: CNI {cni} ms ({share} %), sandboxd {own} ms", timeline.flow)
}

impl Panel for Flow {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Flow".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        let Some(pod) = cx.model.pod(cx.shared.selected.as_deref()) else {
            buf.set_stringn(area.x + 2, area.y, "no pod selected", usize::from(area.width), theme.dim());
            return;
        };
        let mut out = vec![Line::styled(format!("  {}", facts::full_name(pod)), theme.strong())];
        match timeline(pod, cx) {
            None => {
                let failed = cx.answers.timelines.get(&pod.id).and_then(|answer| answer.as_ref().err());
                let why = failed.map_or("no timeline yet", |why| why.as_str());
                out.push(Line::styled(format!("  {why}"), theme.dim()));
            }
            Some(timeline) => {
                let room = usize::from(area.width).saturating_sub(3);
                let summary = text::wrap(&summary(timeline, cx), room);
                out.extend(summary.into_iter().map(|part| Line::raw(format!("  {part}"))));
                out.push(Line::default());
                out.extend(lines(timeline, area.width, cx));
                out.push(Line::default());
                out.push(Line::from(vec![
                    Span::styled(format!("  {}", theme.glyphs().own_bar), theme.accent()),
                    Span::raw(" sandboxd   "),
                    Span::styled(theme.glyphs().cni_bar, theme.warn()),
                    Span::raw(" CNI plugins"),
                ]));
                out.push(Line::default());
                for step in &timeline.steps {
                    let (value, sign) =
                        if step.error.is_empty() { (&step.detail, "") } else { (&step.error, WRONG) };
                    let value = format!("{sign} {value}");
                    super::pager::labelled(
                        &mut out,
                        &format!(" {}", step.name),
                        value.trim(),
                        area.width,
                        13,
                        theme,
                    );
                }
            }
        }
        // What does not fit is named: the pod in full scrolls.
        let height = usize::from(area.height);
        if out.len() > height && height > 1 {
            let more = text::plural(out.len() - height + 1, "line");
            out.truncate(height - 1);
            let words = format!(" {} {more} more: D scrolls", theme.glyphs().down);
            out.push(Line::styled(words, theme.accent()));
        }
        for (y, line) in (area.y..area.bottom()).zip(&out) {
            buf.set_line(area.x, y, line, area.width);
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        pod_key(key, cx).or_else(|| self.pods.handle_key(key, cx))
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        super::pods::copied(cx)
    }

    fn subject(&self, cx: &Context<'_>) -> Option<Subject> {
        super::pods::selected(cx)
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("j k", "other pod"),
            ("Enter", "containers"),
            ("w", "why"),
            ("e", "next problem"),
            ("D", "describe"),
            ("y", "copy its id"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(duration_ns: u64, cni_ns: u64) -> Step {
        Step { duration_ns, cni_ns, ..Step::default() }
    }

    #[test]
    fn bars_stay_in_their_room_and_show_every_step() {
        assert_eq!(Bar::new(0, &step(100, 0), 100, 10), Bar { before: 0, own: 10, cni: 0 });
        assert_eq!(Bar::new(50, &step(50, 25), 100, 10), Bar { before: 5, own: 2, cni: 3 });
        assert_eq!(Bar::new(99, &step(1, 0), 100, 10), Bar { before: 9, own: 1, cni: 0 });
        assert_eq!(Bar::new(0, &step(90, 89), 100, 10), Bar { before: 0, own: 1, cni: 8 });
        assert_eq!(Bar::new(0, &step(u64::MAX, u64::MAX), 1, 10), Bar { before: 0, own: 0, cni: 10 });
        assert_eq!(Bar::new(0, &step(5, 5), 10, 0), Bar { before: 0, own: 0, cni: 0 });
    }
}
