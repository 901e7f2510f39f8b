//! Scrolling over lines that are already wrapped.

use crossterm::event::KeyEvent;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::list;
use crate::text;
use crate::theme::Theme;

#[derive(Debug, Default)]
pub struct Pager {
    offset: usize,
    len: usize,
    height: usize,
}

impl Pager {
    pub fn draw(&mut self, buf: &mut Buffer, area: Rect, lines: &[Line<'_>], theme: Theme) {
        self.len = lines.len();
        // What does not fit is counted on a line of its own, so that it covers nothing.
        let counted = self.len > usize::from(area.height) && area.height > 1;
        self.height = usize::from(area.height) - usize::from(counted);
        self.offset = self.offset.min(self.len.saturating_sub(self.height));
        for (y, line) in (area.y..).zip(lines[self.offset..].iter().take(self.height)) {
            buf.set_line(area.x, y, line, area.width);
        }
        let below = self.len.saturating_sub(self.offset + self.height);
        if counted && below > 0 {
            let more = format!(" {} {} more", theme.glyphs().down, text::plural(below, "line"));
            buf.set_string(area.x, area.bottom() - 1, more, theme.accent());
        }
    }

    /// Whether the key scrolled.
    pub fn handle_key(&mut self, key: KeyEvent) -> bool {
        // The position that moves is the first visible line, not a selection.
        let last = self.len.saturating_sub(self.height) + 1;
        match list::moved(key, self.offset, last, self.height) {
            Some(offset) => {
                self.offset = offset;
                true
            }
            None => false,
        }
    }
}

/// Lines of `label` and `value`, the value wrapped and hanging under itself; nothing for an empty value.
pub fn labelled(
    lines: &mut Vec<Line<'static>>,
    label: &str,
    value: &str,
    width: u16,
    indent: usize,
    theme: Theme,
) {
    if value.is_empty() {
        return;
    }
    let room = usize::from(width).saturating_sub(indent + 2);
    for (index, part) in text::wrap(value, room).into_iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        let label = text::left(label, indent, theme.glyphs().ellipsis);
        lines.push(Line::from(vec![Span::raw(" "), Span::styled(label, theme.accent()), Span::raw(part)]));
    }
}
