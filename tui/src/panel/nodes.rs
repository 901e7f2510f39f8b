//! The nodes: which are there, what they say, and why the others are not.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Context, Effect, Hint, Panel, list, status};
use crate::fleet::{Node, NodeId};
use crate::link::Link;
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug, Default)]
pub struct Nodes {
    at: usize,
    offset: usize,
    rows: Rect,
}

impl Nodes {
    pub fn at(node: NodeId) -> Self {
        Self { at: node.0, ..Self::default() }
    }
}

/// Columns before the words.
const NAME: usize = 18;

fn words(node: &Node, cx: &Context<'_>) -> (String, Style) {
    let (theme, dot) = (cx.theme, cx.theme.glyphs().dot);
    let pods = text::plural(node.model.pods.len(), "pod");
    let problems = node.model.pods.values().filter(|pod| facts::is_problem(pod)).count();
    let lost = node.model.observer.lost;
    match &node.link {
        Link::Waiting { reason, retry_at_ns, .. } => {
            let retry = text::age(retry_at_ns.saturating_sub(cx.now_ns).saturating_add(999_999_999));
            (format!("again in {retry} {dot} {pods} of before {dot} {reason}"), theme.bad())
        }
        _ if !node.model.filled => (node.endpoint.clone(), theme.dim()),
        _ => {
            let mut words = format!("{pods} {dot} {} checks", text::grouped(node.model.observer.seen));
            if problems > 0 {
                words += &format!(" {dot} {WRONG} {problems} to look at");
            }
            if lost > 0 {
                words += &format!(" {dot} {WRONG} {} lost", text::grouped(lost));
            }
            let degraded = node.model.node.degradations.len() + node.model.observer.degradations.len();
            if degraded > 0 {
                words += &format!(" {dot} ! {degraded} degraded");
            }
            (format!("{words} {dot} {}", node.endpoint), theme.plain())
        }
    }
}

impl Panel for Nodes {
    fn title(&self, cx: &Context<'_>) -> String {
        text::plural(cx.nodes.len(), "node")
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        let head = format!("  {:<NAME$}{:<16}", "NODE", "CONNECTION");
        buf.set_stringn(area.x, area.y, head, usize::from(area.width), theme.heading());
        self.rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        self.at = self.at.min(cx.nodes.len().saturating_sub(1));
        self.offset = list::scrolled(self.offset, self.at, usize::from(self.rows.height), cx.nodes.len());
        let visible = cx.nodes.iter().enumerate().skip(self.offset);
        for (y, (index, node)) in (self.rows.y..self.rows.bottom()).zip(visible) {
            let pointer = if index == self.at { theme.glyphs().pointer } else { " " };
            let ellipsis = theme.glyphs().ellipsis;
            let (link, link_style) = status::connection(&node.link, cx);
            let (words, style) = words(node, cx);
            let line = Line::from(vec![
                Span::raw(text::left(pointer, 2, "")),
                Span::styled(text::left(node.name(), NAME - 2, ellipsis) + "  ", theme.strong()),
                Span::styled(text::left(&link, 16, ellipsis), link_style),
                Span::styled(words, style),
            ]);
            buf.set_line(area.x, y, &line, area.width);
            if index == self.at {
                buf.set_style(Rect { y, height: 1, ..area }, theme.selected());
            }
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        match key.code {
            KeyCode::Enter => Some(vec![Effect::Node(NodeId(self.at))]),
            // Open already: once is enough.
            KeyCode::Char('N') => Some(Vec::new()),
            _ => {
                self.at = list::moved(key, self.at, cx.nodes.len(), usize::from(self.rows.height))?;
                Some(Vec::new())
            }
        }
    }

    fn click(&mut self, _column: u16, row: u16, cx: &Context<'_>) -> Vec<Effect> {
        if let Some(y) = row.checked_sub(self.rows.y) {
            self.at = (self.offset + usize::from(y)).min(cx.nodes.len().saturating_sub(1));
        }
        Vec::new()
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("Enter", "its pods"), ("j k", "move")]
    }
}
