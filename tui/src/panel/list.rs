//! Moving in lists: vim's keys, arrows, pages.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;

/// Where `key` moves to from row `at` of `len`, `page` rows being visible; `None` when it is no such key.
pub fn moved(key: KeyEvent, at: usize, len: usize, page: usize) -> Option<usize> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let page = page.max(1);
    let to = match key.code {
        KeyCode::Down => at.saturating_add(1),
        KeyCode::Up => at.saturating_sub(1),
        KeyCode::Char('d') if control => at.saturating_add(page / 2),
        KeyCode::Char('u') if control => at.saturating_sub(page / 2),
        KeyCode::Char('f') if control => at.saturating_add(page),
        KeyCode::Char('b') if control => at.saturating_sub(page),
        _ if control => return None,
        KeyCode::Char('j') => at.saturating_add(1),
        KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::PageDown => at.saturating_add(page),
        KeyCode::PageUp => at.saturating_sub(page),
        KeyCode::Char('g') | KeyCode::Home => 0,
        KeyCode::Char('G') | KeyCode::End => len,
        _ => return None,
    };
    Some(to.min(len.saturating_sub(1)))
}

/// The first visible row so that row `at` is among the `height` visible ones, moving as little as it can.
pub fn scrolled(offset: usize, at: usize, height: usize, len: usize) -> usize {
    let lowest = (at + 1).saturating_sub(height);
    offset.clamp(lowest, at.max(lowest)).min(len.saturating_sub(height))
}

/// A selected row among rows of which some are visible.
#[derive(Debug, Default)]
pub struct Cursor {
    pub at: usize,
    offset: usize,
    /// Where the rows were drawn, for pages and the mouse.
    area: Rect,
}

/// What a click hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Click {
    Nothing,
    Row,
    /// The row that was selected already: open it.
    Selected,
}

impl Cursor {
    /// Keeps the selection among `len` rows and in sight.
    pub fn place(&mut self, area: Rect, len: usize) {
        self.area = area;
        self.at = self.at.min(len.saturating_sub(1));
        self.offset = scrolled(self.offset, self.at, usize::from(area.height), len);
    }

    /// The visible rows: where, and which.
    pub fn visible(&self, len: usize) -> impl Iterator<Item = (Rect, usize)> + use<> {
        let area = self.area;
        (area.y..area.bottom())
            .zip(self.offset..len)
            .map(move |(y, index)| (Rect { y, height: 1, ..area }, index))
    }

    /// Whether the key moved.
    pub fn handle_key(&mut self, key: KeyEvent, len: usize) -> bool {
        let to = moved(key, self.at, len, usize::from(self.area.height));
        self.at = to.unwrap_or(self.at);
        to.is_some()
    }

    pub fn click(&mut self, row: u16, len: usize) -> Click {
        let hit = row.checked_sub(self.area.y).filter(|y| *y < self.area.height);
        match hit.map(|y| self.offset + usize::from(y)) {
            Some(index) if index < len => {
                let before = std::mem::replace(&mut self.at, index);
                if before == index { Click::Selected } else { Click::Row }
            }
            _ => Click::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_move_within_the_list() {
        let press = |code| KeyEvent::new(code, KeyModifiers::NONE);
        assert_eq!(moved(press(KeyCode::Char('j')), 3, 4, 10), Some(3));
        assert_eq!(moved(press(KeyCode::Up), 0, 4, 10), Some(0));
        assert_eq!(moved(press(KeyCode::Char('G')), 0, 4, 10), Some(3));
        assert_eq!(moved(press(KeyCode::PageDown), 0, 40, 10), Some(10));
        assert_eq!(moved(press(KeyCode::Down), 0, 0, 10), Some(0));
        assert_eq!(moved(press(KeyCode::Char('x')), 0, 4, 10), None);
        let half = KeyEvent::new(KeyCode::Char('d'), KeyModifiers::CONTROL);
        assert_eq!(moved(half, 0, 40, 10), Some(5));
    }

    #[test]
    fn the_window_follows_the_selection_and_no_further() {
        assert_eq!(scrolled(0, 9, 10, 100), 0);
        assert_eq!(scrolled(0, 10, 10, 100), 1);
        assert_eq!(scrolled(50, 20, 10, 100), 20);
        assert_eq!(scrolled(95, 99, 10, 100), 90);
        assert_eq!(scrolled(5, 2, 10, 3), 0);
    }
}
