//! A question, or a command that is typed: it stands over the last lines, as many as its words need, and takes
//! every key.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget};

use super::Context;
use crate::actions::Question;
use crate::fleet::NodeId;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug)]
pub enum Modal {
    /// Something is to be changed on a node.
    Question(NodeId, Question),
    /// A command to run in a container.
    Command { node: NodeId, container_id: String, object: String, typed: String },
}

impl Modal {
    fn words(&self, cx: &Context<'_>) -> String {
        let name = |node: &NodeId| cx.several().then(|| cx.nodes[node.0].name());
        match self {
            Self::Question(node, question) => format!("{WRONG} {}", question.words(name(node))),
            Self::Command { node, object, typed, .. } => {
                let on = name(node).map(|node| format!(" on node {node}")).unwrap_or_default();
                format!("Run in {object}{on} (Enter runs it, Esc does not): {typed}")
            }
        }
    }

    pub fn draw(&self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let mut lines = text::wrap(&self.words(cx), usize::from(area.width).saturating_sub(3));
        // Where what is typed goes on.
        if let Some(last) = lines.last_mut() {
            last.push('_');
        }
        let height = text::cells(lines.len() + 1).min(area.height);
        let area = Rect { y: area.bottom() - height, height, ..area };
        Clear.render(area, buf);
        let rule = cx.theme.glyphs().rule.repeat(usize::from(area.width));
        buf.set_string(area.x, area.y, rule, cx.theme.bad());
        let skipped = (lines.len() + 1).saturating_sub(usize::from(height));
        for (y, line) in (area.y + 1..area.bottom()).zip(lines.iter().skip(skipped)) {
            buf.set_stringn(area.x + 1, y, line, usize::from(area.width) - 1, cx.theme.strong());
        }
    }
}
