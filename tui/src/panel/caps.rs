//! Capabilities: what pods and their containers were granted, used, and were denied, and what they could do
//! without.

mod sum;

use std::collections::BTreeMap;

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{CapabilityUse, ContainerCapabilities};

use super::list::Cursor;
use super::pager::{Pager, labelled};
use super::readings::Want;
use super::table::{self, Head, Table};
use super::{Context, Copied, Effect, Hint, Panel, opened, why_of_pod};
use crate::feed::query::Query;
use crate::fleet::PodKey;
use crate::model::facts;
use crate::text;
use sum::{Grant, Sum, by_pod};

const HEADS: [Head; 6] = [
    table::left("POD", 14),
    table::left("DENIED", 8),
    table::right("USED", 4),
    table::right("GRANTED", 7),
    table::right("UNUSED", 6),
    table::left("WHERE", 12),
];

#[derive(Debug, Default)]
pub struct Caps {
    cursor: Cursor,
    only_denied: bool,
    /// By pod, made anew with each reading: a frame costs what is visible.
    sums: BTreeMap<String, Sum>,
    /// When the reading came that they were made from.
    of_ns: i64,
}

fn name(usage: &CapabilityUse) -> String {
    match usage.name.trim_start_matches("CAP_") {
        "" => format!("cap {}", usage.capability),
        name => name.to_owned(),
    }
}

impl Caps {
    /// Ids of the pods that are shown: those that pass the filter, in their order. The selection is the pod that is
    /// selected everywhere.
    fn rows(&mut self, cx: &Context<'_>) -> Vec<String> {
        let reading = cx.answers.readings.get(&Query::Capabilities);
        let came_ns = reading.map_or(0, |reading| reading.came_ns);
        if came_ns != self.of_ns {
            self.of_ns = came_ns;
            self.sums =
                cx.answers.readings.capabilities().map(|all| by_pod(&all.containers)).unwrap_or_default();
        }
        let shown = |id: &&str| self.sums.get(*id).is_some_and(|sum| !self.only_denied || sum.denied() > 0);
        let rows: Vec<_> = cx.own_rows().map(|key| &*key.id).filter(shown).map(ToOwned::to_owned).collect();
        let at = rows.iter().position(|id| {
            cx.shared.selected.as_ref().is_some_and(|key| key.node == cx.node && *key.id == **id)
        });
        self.cursor.at = at.unwrap_or(self.cursor.at).min(rows.len().saturating_sub(1));
        rows
    }

    fn select(&self, rows: &[String], cx: &Context<'_>) -> Vec<Effect> {
        rows.get(self.cursor.at).map(|id| Effect::Select(PodKey::new(cx.node, id))).into_iter().collect()
    }
}

impl Panel for Caps {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Capabilities".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        let rows = self.rows(cx);
        let reading = cx.answers.readings.get(&Query::Capabilities);
        if cx.answers.readings.capabilities().is_none() || rows.is_empty() {
            let words = match reading.and_then(|reading| reading.error.as_deref()) {
                Some(error) => error,
                None if cx.answers.readings.capabilities().is_none() => "asking the daemon",
                None => "no pod matches",
            };
            buf.set_stringn(area.x + 2, area.y, words, usize::from(area.width), theme.dim());
            return;
        }
        let longest =
            rows.iter().filter_map(|id| Some(text::width(&self.sums.get(id)?.name))).max().unwrap_or(0);
        let table = Table::fit(&HEADS, area.width, longest);
        table.heading(buf, Rect { height: 1, ..area }, theme);
        let hidden = u16::from(!table.hidden().is_empty());
        let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1 + hidden), ..area };
        table::not_shown(buf, Rect { y: area.bottom() - 1, height: 1, ..area }, &table.hidden(), theme);
        self.cursor.place(list, rows.len());
        for (area, index) in self.cursor.visible(rows.len()) {
            let Some(sum) = self.sums.get(&rows[index]) else { continue };
            let number = |count: usize| (count.to_string(), theme.plain());
            let denied = match sum.denied() {
                0 => ("0".to_owned(), theme.dim()),
                some => (format!("!! {}", text::grouped(some)), theme.bad()),
            };
            // In the host's user namespace a capability is one over the host.
            let place = if sum.userns { ("own userns", theme.dim()) } else { ("! the host's", theme.warn()) };
            let cells: Vec<(String, Style)> = vec![
                (sum.name.clone(), theme.strong()),
                denied,
                number(sum.count(|usage| usage.used > 0)),
                number(sum.count(|usage| usage.granted)),
                number(sum.unused),
                (place.0.to_owned(), place.1),
            ];
            table.row(buf, area, cells, index == self.cursor.at, theme);
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        let rows = self.rows(cx);
        match key.code {
            KeyCode::Enter => {
                let open =
                    |id: &str| Effect::Open(Box::new(CapsOf { pod: id.to_owned(), pager: Pager::default() }));
                Some(rows.get(self.cursor.at).map(|id| open(id)).into_iter().collect())
            }
            KeyCode::Char('d') if key.modifiers.is_empty() => {
                self.only_denied = !self.only_denied;
                let rows = self.rows(cx);
                Some(self.select(&rows, cx))
            }
            KeyCode::Char('e') => {
                let (at, len) = (self.cursor.at, rows.len());
                let mut below = (at + 1..len).chain(0..(at + 1).min(len));
                let Some(row) =
                    below.find(|row| self.sums.get(&rows[*row]).is_some_and(|sum| sum.denied() > 0))
                else {
                    return Some(vec![Effect::Notice("no pod was denied a capability".to_owned())]);
                };
                self.cursor.at = row;
                Some(self.select(&rows, cx))
            }
            KeyCode::Char('w') => {
                Some(rows.get(self.cursor.at).map(|id| why_of_pod(id, cx)).unwrap_or_default())
            }
            KeyCode::Char('r') => Some(vec![Effect::ReadAgain]),
            _ => self.cursor.handle_key(key, rows.len()).then(|| self.select(&rows, cx)),
        }
    }

    fn click(&mut self, _column: u16, row: u16, cx: &Context<'_>) -> Vec<Effect> {
        let rows = self.rows(cx);
        match opened(self.cursor.click(row, rows.len())) {
            effects if effects.is_empty() => self.select(&rows, cx),
            effects => effects,
        }
    }

    fn wants(&self, _cx: &Context<'_>) -> Vec<Want> {
        vec![Want::every_seconds(Query::Capabilities, 5)]
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        super::pods::copied(cx)
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Enter", "each capability"),
            ("w", "why"),
            ("e", "next denied"),
            ("d", "only denied"),
            ("/", "filter"),
            ("r", "read again"),
            ("j k", "move"),
        ]
    }
}

/// Each capability of one pod: of all its containers together, then of each.
#[derive(Debug)]
struct CapsOf {
    pod: String,
    pager: Pager,
}

impl CapsOf {
    fn lines(&self, width: u16, cx: &Context<'_>) -> Vec<Line<'static>> {
        let theme = cx.theme;
        let answer = cx.answers.readings.capabilities();
        let of_it = |one: &&ContainerCapabilities| one.pod_id == self.pod;
        let containers: Vec<_> =
            answer.map(|answer| answer.containers.iter().filter(of_it).collect()).unwrap_or_default();
        if containers.is_empty() {
            return vec![Line::raw(" nothing is known of this pod's capabilities")];
        }
        let sum = Sum::of(&containers);
        let mut lines = Vec::new();
        let kept = cx.model.last_denied(&self.pod).is_some();
        let why = if kept { ": w says why" } else { "" };
        for (usage, grant) in sum.uses.values().filter(|(usage, _)| usage.denied > 0) {
            let has = match grant {
                Grant::Yes => "is granted and was",
                Grant::No => "is not granted and was",
                Grant::Sandboxd => "was asked for by sandboxd's own processes and was",
                Grant::Unknown => "was",
            };
            let times = if usage.denied == 1 {
                "once".to_owned()
            } else {
                format!("{} times", text::grouped(usage.denied))
            };
            let words = format!("{} {has} denied {times}{why}", name(usage));
            for (index, part) in
                text::wrap(&words, usize::from(width).saturating_sub(5)).into_iter().enumerate()
            {
                let sign = if index == 0 { "!!" } else { "" };
                lines.push(Line::styled(format!(" {sign:<3}{part}"), theme.bad()));
            }
        }
        if containers.len() > 1 {
            section(&mut lines, "ALL TOGETHER", "", cx);
            uses(&mut lines, sum.uses.values().map(|(usage, grant)| (usage, *grant)), cx);
        }
        for one in &containers {
            let title = match one.container.as_str() {
                "" => "other processes",
                container => container,
            };
            section(&mut lines, &title.to_uppercase(), &observed(one, cx), cx);
            let of_it = one.capabilities.iter().map(|usage| (usage, Grant::of(one, usage)));
            uses(&mut lines, of_it, cx);
            suggestion(&mut lines, one, width, cx);
        }
        lines
    }
}

fn section(lines: &mut Vec<Line<'static>>, title: &str, note: &str, cx: &Context<'_>) {
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    lines.push(Line::from(vec![
        Span::styled(format!(" {title}"), cx.theme.heading()),
        Span::styled(format!("  {note}"), cx.theme.dim()),
    ]));
}

/// In which user namespace, and for how long it was observed.
fn observed(one: &ContainerCapabilities, cx: &Context<'_>) -> String {
    let place = if one.userns { "within its own user namespace" } else { "! over the host" };
    let age = text::age(cx.now_ns.saturating_sub(one.observed_since_ns));
    match (one.whole_life, one.observed_since_ns) {
        (true, _) => format!("{place}, observed all its life ({age})"),
        (false, 0) => format!("{place}, not observed"),
        (false, _) => format!("{place}, ! observed for {age} only"),
    }
}

/// A line each: what was denied first, then what was used, then what was granted and not used.
fn uses<'a>(
    lines: &mut Vec<Line<'static>>,
    uses: impl Iterator<Item = (&'a CapabilityUse, Grant)>,
    cx: &Context<'_>,
) {
    let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
    let mut uses: Vec<_> = uses.filter(|(usage, _)| usage.granted || usage.used + usage.denied > 0).collect();
    uses.sort_by_key(|(usage, _)| (usage.denied == 0, usage.used == 0, usage.capability));
    for (usage, grant) in uses {
        let (sign, word, style) = match usage {
            usage if usage.denied > 0 => (glyphs.failed, "denied", theme.bad()),
            usage if usage.used > 0 => (glyphs.ready, "used", theme.good()),
            _ => (glyphs.idle, "unused", theme.dim()),
        };
        let mut counts = Vec::new();
        if usage.denied > 0 {
            counts.push(format!("{} denied", text::grouped(usage.denied)));
        }
        if usage.used > 0 {
            counts.push(format!("{} allowed", text::grouped(usage.used)));
        }
        if usage.last_ns > 0 {
            let age = text::age(cx.now_ns.saturating_sub(usage.last_ns));
            counts.push(format!("{} {age} ago", usage.last_syscall).trim_start().to_owned());
        }
        lines.push(Line::from(vec![
            Span::styled(format!("  {sign} {word:<7} "), style),
            Span::styled(format!("{:<17} ", name(usage)), theme.strong()),
            Span::raw(format!("{:<12} ", grant.word())),
            Span::styled(counts.join(", "), theme.dim()),
        ]));
    }
}

fn suggestion(lines: &mut Vec<Line<'static>>, one: &ContainerCapabilities, width: u16, cx: &Context<'_>) {
    let dropped = match one.suggested_drop.as_slice() {
        [] => return,
        names => names.iter().map(|name| name.trim_start_matches("CAP_")).collect::<Vec<_>>().join(", "),
    };
    labelled(lines, " Could drop", &dropped, width, 13, cx.theme);
    labelled(lines, " But", &one.caveat, width, 13, cx.theme);
}

impl Panel for CapsOf {
    fn title(&self, cx: &Context<'_>) -> String {
        cx.model.pod(Some(&self.pod)).map_or_else(|| "a pod that is gone".to_owned(), facts::full_name)
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let lines = self.lines(area.width, cx);
        self.pager.draw(buf, area, &lines, cx.theme);
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        match key.code {
            KeyCode::Char('w') => Some(why_of_pod(&self.pod, cx)),
            KeyCode::Char('r') => Some(vec![Effect::ReadAgain]),
            KeyCode::Enter => Some(vec![Effect::Checks(format!("id:{}", self.pod))]),
            _ => self.pager.handle_key(key).then(Vec::new),
        }
    }

    fn wants(&self, _cx: &Context<'_>) -> Vec<Want> {
        vec![Want::every_seconds(Query::Capabilities, 5)]
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        let answer = cx.answers.readings.capabilities()?;
        let of_it = answer.containers.iter().filter(|one| one.pod_id == self.pod);
        let drops = of_it.filter(|one| !one.suggested_drop.is_empty());
        let lines: Vec<_> =
            drops.map(|one| format!("{}: drop {}", one.container, one.suggested_drop.join(", "))).collect();
        (!lines.is_empty()).then(|| Copied::new("what could be dropped", &lines.join("\n")))
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Esc", "back"),
            ("w", "why"),
            ("Enter", "its checks"),
            ("y", "copy what could be dropped"),
            ("r", "read again"),
            ("j k", "scroll"),
        ]
    }
}
