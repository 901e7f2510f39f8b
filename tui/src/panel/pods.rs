//! The pod table. Only the visible rows are drawn.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::columns::{self, Placed};
use super::containers::Containers;
use super::{Context, Copied, Effect, Hint, Panel, list, pod, why_of_pod};
use crate::actions::Subject;
use crate::fleet;
use crate::model::facts;
use crate::text;

#[derive(Debug, Default)]
pub struct Pods {
    offset: usize,
    /// Where the rows were drawn, for the mouse.
    rows: Rect,
    placed: Vec<Placed>,
}

impl Pods {
    /// Rows the table takes with its heading.
    pub fn height(cx: &Context<'_>) -> usize {
        cx.shared.rows.len().max(1) + 1
    }

    fn selected(cx: &Context<'_>) -> Option<usize> {
        let selected = cx.shared.selected.as_ref()?;
        cx.shared.rows.iter().position(|id| id == selected)
    }

    fn at(cx: &Context<'_>) -> usize {
        Self::selected(cx).unwrap_or(0)
    }

    fn heading(&self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        for placed in &self.placed {
            let x = area.x + text::cells(placed.x);
            buf.set_string(x, area.y, columns::heading(placed, cx), cx.theme.heading());
        }
    }
}

/// What an empty table says.
fn emptiness(cx: &Context<'_>) -> String {
    if !cx.shared.pod_filter.is_empty() {
        return format!(
            "none of {} matches {}: Esc shows them all",
            text::plural(fleet::pods(cx.nodes).count(), "pod"),
            cx.shared.pod_filter.text()
        );
    }
    if cx.several() { "no pods on these nodes yet" } else { "no pods on this node yet" }.to_owned()
}

impl Panel for Pods {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Pods".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let (width, several) = (usize::from(area.width), cx.several());
        self.placed = columns::layout(width, cx.shared.longest_name, &cx.shared.columns, several);
        self.heading(buf, area, cx);
        self.rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        if cx.shared.rows.is_empty() {
            buf.set_stringn(
                self.rows.x + 2,
                self.rows.y,
                emptiness(cx),
                usize::from(area.width).saturating_sub(2),
                cx.theme.dim(),
            );
            return;
        }
        let (selected, height) = (Self::selected(cx), usize::from(self.rows.height));
        self.offset = list::scrolled(self.offset, Self::at(cx), height, cx.shared.rows.len());
        for (y, (index, id)) in
            (self.rows.y..self.rows.bottom()).zip(cx.shared.rows.iter().enumerate().skip(self.offset))
        {
            let Some(pod) = cx.pod(id) else { continue };
            let on = cx.on(id.node);
            let mut line = Line::default();
            let pointer = if Some(index) == selected { cx.theme.glyphs().pointer } else { " " };
            line.push_span(Span::raw(text::left(pointer, columns::MARGIN, "")));
            for placed in &self.placed {
                let (cell, style) = columns::cell(placed, pod, &on);
                line.push_span(Span::styled(cell, style));
                line.push_span(Span::raw(" ".repeat(columns::GAP)));
            }
            buf.set_line(area.x, y, &line, area.width);
            if cx.several() && cx.nodes[id.node.0].is_stale() {
                buf.set_style(Rect { y, height: 1, ..area }, cx.theme.dim());
            }
            if Some(index) == selected {
                buf.set_style(Rect { y, height: 1, ..area }, cx.theme.selected());
            }
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        if key.code == KeyCode::Char('c') && key.modifiers.is_empty() {
            return Some(vec![Effect::Open(Box::new(super::picker::Picker::new(&cx.shared.columns)))]);
        }
        if let Some(effects) = pod_key(key, cx) {
            return Some(effects);
        }
        let to = list::moved(key, Self::at(cx), cx.shared.rows.len(), usize::from(self.rows.height))?;
        Some(cx.shared.rows.get(to).map(|id| Effect::Select(id.clone())).into_iter().collect())
    }

    fn click(&mut self, column: u16, row: u16, cx: &Context<'_>) -> Vec<Effect> {
        if row + 1 == self.rows.y {
            let x = usize::from(column.saturating_sub(self.rows.x));
            let hit = self.placed.iter().find(|placed| (placed.x..placed.x + placed.width).contains(&x));
            return hit
                .map(|placed| {
                    let mut sort = cx.shared.sort;
                    let same = sort.column == placed.column;
                    sort.reversed = same && !sort.reversed;
                    sort.column = placed.column;
                    Effect::Sort(sort)
                })
                .into_iter()
                .collect();
        }
        let Some(y) = row.checked_sub(self.rows.y).filter(|y| *y < self.rows.height) else {
            return Vec::new();
        };
        match cx.shared.rows.get(self.offset + usize::from(y)) {
            Some(id) if Some(id) == cx.shared.selected.as_ref() => vec![Effect::Enter],
            Some(id) => vec![Effect::Select(id.clone())],
            None => Vec::new(),
        }
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        copied(cx)
    }

    fn subject(&self, cx: &Context<'_>) -> Option<Subject> {
        selected(cx)
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Enter", "containers"),
            ("w", "why"),
            ("e", "next problem"),
            ("/", "filter"),
            ("s", "sort"),
            ("D", "describe"),
            ("c", "columns"),
            ("S", "reverse"),
            ("y", "copy its id"),
            ("j k", "move"),
        ]
    }
}

/// The selected pod, for the keys that are about it.
pub fn selected(cx: &Context<'_>) -> Option<Subject> {
    cx.shared.selected.as_deref().map(|id| Subject::Pod(id.to_owned()))
}

/// Keys that every view of the selected pod takes.
pub fn pod_key(key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
    let selected = cx.shared.selected.as_deref();
    let effects = match key.code {
        KeyCode::Enter => {
            selected.map(|id| Effect::Open(Box::new(Containers::new(id)))).into_iter().collect()
        }
        KeyCode::Char('D') => selected.map(describe).into_iter().collect(),
        KeyCode::Char('w') => selected.map(|id| why_of_pod(id, cx)).unwrap_or_default(),
        KeyCode::Char('e') => vec![next_problem(cx)],
        KeyCode::Char('s') => vec![Effect::Sort(cx.shared.sort.next(1, cx.several()))],
        KeyCode::Char('S') => {
            let sort = cx.shared.sort;
            vec![Effect::Sort(crate::model::sort::Sort { reversed: !sort.reversed, ..sort })]
        }
        _ => return None,
    };
    Some(effects)
}

/// Opens the pod in full.
pub fn describe(id: &str) -> Effect {
    Effect::Open(Box::new(pod::PodDetail::new(id)))
}

/// The selected pod's id, for the clipboard.
pub fn copied(cx: &Context<'_>) -> Option<Copied> {
    cx.shared.selected.as_deref().map(|id| Copied::new("the pod's id", id))
}

/// Selects the next pod below that is worth a look, round the end.
fn next_problem(cx: &Context<'_>) -> Effect {
    let rows = &cx.shared.rows;
    let at = Pods::at(cx);
    let below = rows.iter().skip(at + 1).chain(rows.iter().take(at + 1));
    let next = below.into_iter().find(|key| cx.pod(key).is_some_and(facts::is_problem));
    match next {
        Some(key) => Effect::Select(key.clone()),
        None => Effect::Notice("no pod failed, was denied something, or has a wrong owner".to_owned()),
    }
}
