//! Which columns the pod table has, and in which order.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::columns::{self, Chosen};
use super::list::Cursor;
use super::{Context, Effect, Hint, Panel, opened};
use crate::model::sort::Column;
use crate::text;

#[derive(Debug)]
pub struct Picker {
    /// All of them in their order, and whether each is shown.
    columns: Vec<(Column, bool)>,
    cursor: Cursor,
}

impl Picker {
    pub fn new(chosen: &Chosen) -> Self {
        // The node's is there where there are several nodes, whatever is chosen.
        let choosable = || Column::ALL.into_iter().filter(|column| *column != Column::Node);
        let shown = chosen.listed().map_or_else(|| choosable().collect(), <[_]>::to_vec);
        let hidden = choosable().filter(|column| !shown.contains(column));
        let hidden: Vec<_> = hidden.map(|column| (column, false)).collect();
        let columns = shown.iter().map(|column| (*column, true)).chain(hidden).collect();
        Self { columns, cursor: Cursor::default() }
    }

    fn chosen(&self) -> Vec<Column> {
        self.columns.iter().filter(|(_, shown)| *shown).map(|(column, _)| *column).collect()
    }

    fn moved(&mut self, to: usize) -> Option<Vec<Effect>> {
        if to < self.columns.len() {
            self.columns.swap(self.cursor.at, to);
            self.cursor.at = to;
        }
        Some(vec![Effect::Columns(self.chosen())])
    }

    fn toggle(&mut self) -> Vec<Effect> {
        let shown = self.columns.iter().filter(|(_, shown)| *shown).count();
        let Some((_, one)) = self.columns.get_mut(self.cursor.at) else { return Vec::new() };
        if *one && shown == 1 {
            return vec![Effect::Notice("the table needs one column".to_owned())];
        }
        *one = !*one;
        vec![Effect::Columns(self.chosen())]
    }
}

impl Panel for Picker {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Columns".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        let words = "  In this order, as many as fit; kept for the next start.";
        let words = text::fit(words, usize::from(area.width), theme.glyphs().ellipsis);
        buf.set_string(area.x, area.y, words, theme.dim());
        let rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        self.cursor.place(rows, self.columns.len());
        for (area, index) in self.cursor.visible(self.columns.len()) {
            let (column, shown) = self.columns[index];
            let pointer = if index == self.cursor.at { theme.glyphs().pointer } else { " " };
            let style = if shown { theme.strong() } else { theme.dim() };
            let line = Line::from(vec![
                Span::raw(text::left(pointer, 2, "")),
                Span::styled(if shown { "[x] " } else { "[ ] " }, style),
                Span::styled(text::left(columns::name(column), 14, ""), style),
                Span::styled(columns::means(column), theme.dim()),
            ]);
            buf.set_line(area.x, area.y, &line, area.width);
            if index == self.cursor.at {
                buf.set_style(area, theme.selected());
            }
        }
    }

    fn handle_key(&mut self, key: KeyEvent, _cx: &Context<'_>) -> Option<Vec<Effect>> {
        match key.code {
            KeyCode::Char(' ') | KeyCode::Enter => Some(self.toggle()),
            KeyCode::Char('>' | 'J') => self.moved(self.cursor.at + 1),
            KeyCode::Char('<' | 'K') => match self.cursor.at.checked_sub(1) {
                Some(to) => self.moved(to),
                None => Some(Vec::new()),
            },
            KeyCode::Char('r') => {
                *self = Self::new(&Chosen::default());
                Some(vec![Effect::Columns(Vec::new())])
            }
            // Open already: once is enough.
            KeyCode::Char('c') if key.modifiers.is_empty() => Some(Vec::new()),
            _ => self.cursor.handle_key(key, self.columns.len()).then(Vec::new),
        }
    }

    fn click(&mut self, _column: u16, row: u16, _cx: &Context<'_>) -> Vec<Effect> {
        opened(self.cursor.click(row, self.columns.len()))
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("space", "show or hide"),
            ("< >", "move up or down"),
            ("r", "as at first"),
            ("Esc", "back"),
            ("j k", "move"),
        ]
    }
}
