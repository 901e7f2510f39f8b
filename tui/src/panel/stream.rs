//! Where the reader is in a stream of numbered things, newest at the bottom.
//!
//! ```text
//!             ┌── move up ──▶ Held (the selection stays, new ones are counted) ── G, f ──┐
//!  Following ─┤                                                                         ├─▶ Following
//!             └── space ───▶ Paused (nothing moves, what waits is counted) ── space ────┘
//! ```

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::list::{self, Click};
use crate::text;
use crate::theme::Theme;

/// Every method takes the numbers of what passes the filter, oldest first.
#[derive(Debug, Default)]
pub struct Stream {
    /// The selected one; `None` follows the newest.
    held: Option<u64>,
    /// The newest one shown while paused.
    paused_at: Option<u64>,
    offset: usize,
    list: Rect,
}

impl Stream {
    /// What is shown: all that match, up to where it was paused.
    pub fn shown<'a>(&self, matched: &'a [u64]) -> &'a [u64] {
        match self.paused_at {
            Some(newest) => &matched[..matched.partition_point(|seq| *seq <= newest)],
            None => matched,
        }
    }

    fn at(&self, shown: &[u64]) -> usize {
        let last = shown.len().saturating_sub(1);
        self.held.map_or(last, |seq| shown.partition_point(|shown| *shown < seq).min(last))
    }

    pub fn selected(&self, matched: &[u64]) -> Option<u64> {
        let shown = self.shown(matched);
        shown.get(self.at(shown)).copied()
    }

    pub fn follow(&mut self) {
        self.held = None;
        self.paused_at = None;
    }

    /// "following", or what is below or waits.
    pub fn state(&self, matched: &[u64], theme: Theme) -> Line<'static> {
        let dot = theme.glyphs().dot;
        let shown = self.shown(matched);
        let below = shown.len().saturating_sub(self.at(shown) + 1);
        let grouped = |count: usize| text::grouped(count as u64);
        Line::from(match (self.paused_at, self.held) {
            (Some(_), _) => {
                let waiting = grouped(matched.len() - shown.len());
                Span::styled(format!(" paused {dot} {waiting} waiting"), theme.bad())
            }
            (None, Some(_)) => {
                Span::styled(format!(" held {dot} {} newer below", grouped(below)), theme.warn())
            }
            (None, None) => Span::styled(" following", theme.good()),
        })
    }

    /// Keeps the selection in sight.
    pub fn place(&mut self, area: Rect, matched: &[u64]) {
        let shown = self.shown(matched);
        self.list = area;
        self.offset = list::scrolled(self.offset, self.at(shown), usize::from(area.height), shown.len());
    }

    /// The visible ones: where, which, and whether it is the selected one.
    pub fn visible(&self, matched: &[u64]) -> impl Iterator<Item = (Rect, u64, bool)> {
        let (area, shown) = (self.list, self.shown(matched));
        let at = self.at(shown);
        (area.y..area.bottom())
            .zip(shown.iter().enumerate().skip(self.offset))
            .map(move |(y, (index, seq))| (Rect { y, height: 1, ..area }, *seq, index == at))
    }

    /// Whether the key was one of a stream's; `newest` is the number of the newest of all.
    pub fn handle_key(&mut self, key: KeyEvent, newest: u64, matched: &[u64]) -> bool {
        match key.code {
            KeyCode::Char(' ' | 'p') => {
                self.paused_at = if self.paused_at.is_some() { None } else { Some(newest) };
            }
            KeyCode::Char('f') if key.modifiers.is_empty() => self.follow(),
            _ => {
                let shown = self.shown(matched);
                let len = shown.len();
                let Some(to) = list::moved(key, self.at(shown), len, usize::from(self.list.height)) else {
                    return false;
                };
                // At the end the newest is followed again.
                self.held = if to + 1 >= len { None } else { shown.get(to).copied() };
            }
        }
        true
    }

    pub fn click(&mut self, row: u16, matched: &[u64]) -> Click {
        let shown = self.shown(matched);
        let Some(y) = row.checked_sub(self.list.y).filter(|y| *y < self.list.height) else {
            return Click::Nothing;
        };
        let before = shown.get(self.at(shown)).copied();
        match shown.get(self.offset + usize::from(y)).copied() {
            None => Click::Nothing,
            hit if hit == before => Click::Selected,
            hit => {
                self.held = hit;
                Click::Row
            }
        }
    }
}
