//! A table that drops its last columns as the terminal narrows, and knows which.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::text;
use crate::theme::Theme;

const GAP: usize = 2;
/// Columns at the left for the pointer at the selected row.
const MARGIN: usize = 2;
/// The widest the first column grows.
const WIDEST: usize = 40;

#[derive(Debug)]
pub struct Head {
    pub name: &'static str,
    pub width: usize,
    /// Numbers stand at the right.
    pub right: bool,
}

pub const fn left(name: &'static str, width: usize) -> Head {
    Head { name, width, right: false }
}

pub const fn right(name: &'static str, width: usize) -> Head {
    Head { name, width, right: true }
}

/// The columns that fit: the first grows to its longest cell, the last takes what is left.
#[derive(Debug)]
pub struct Table<'a> {
    heads: &'a [Head],
    widths: Vec<usize>,
}

impl<'a> Table<'a> {
    pub fn fit(heads: &'a [Head], width: u16, longest: usize) -> Self {
        let mut room = usize::from(width).saturating_sub(MARGIN);
        let mut widths = Vec::new();
        for head in heads {
            let needs = head.width + if widths.is_empty() { 0 } else { GAP };
            if needs > room {
                break;
            }
            room -= needs;
            widths.push(head.width);
        }
        if let Some(first) = widths.first_mut() {
            let more = longest.min(WIDEST).saturating_sub(*first).min(room);
            *first += more;
            room -= more;
        }
        if widths.len() > 1
            && widths.len() == heads.len()
            && let Some(last) = widths.last_mut()
        {
            *last += room;
        }
        Self { heads, widths }
    }

    /// Names of the columns for which the terminal is too narrow.
    pub fn hidden(&self) -> Vec<&'static str> {
        self.heads[self.widths.len()..].iter().map(|head| head.name).collect()
    }

    pub fn heading(&self, buf: &mut Buffer, area: Rect, theme: Theme) {
        let cells = self.heads.iter().map(|head| (head.name.to_owned(), theme.heading()));
        buf.set_line(area.x, area.y, &self.line(cells, " ", theme), area.width);
    }

    pub fn row(
        &self,
        buf: &mut Buffer,
        area: Rect,
        cells: Vec<(String, Style)>,
        selected: bool,
        theme: Theme,
    ) {
        let pointer = if selected { theme.glyphs().pointer } else { " " };
        buf.set_line(area.x, area.y, &self.line(cells.into_iter(), pointer, theme), area.width);
        if selected {
            buf.set_style(area, theme.selected());
        }
    }

    fn line(
        &self,
        cells: impl Iterator<Item = (String, Style)>,
        pointer: &'static str,
        theme: Theme,
    ) -> Line<'static> {
        let mut line = Line::from(Span::raw(text::left(pointer, MARGIN, "")));
        for (index, (cell, style)) in cells.take(self.widths.len()).enumerate() {
            let (width, ellipsis) = (self.widths[index], theme.glyphs().ellipsis);
            let cell = match index {
                // Names differ at their ends.
                0 => text::left(&text::fit_middle(&cell, width, ellipsis), width, ellipsis),
                _ if self.heads[index].right => text::right(&cell, width, ellipsis),
                _ => text::left(&cell, width, ellipsis),
            };
            line.push_span(Span::styled(cell, style));
            line.push_span(Span::raw(" ".repeat(GAP)));
        }
        line
    }
}

/// "not shown: IMAGE, LOG", where something is not.
pub fn not_shown(buf: &mut Buffer, area: Rect, what: &[&str], theme: Theme) {
    if !what.is_empty() {
        let words = format!("not shown: {}", what.join(", "));
        let words = text::fit(&words, usize::from(area.width).saturating_sub(1), theme.glyphs().ellipsis);
        buf.set_string(area.x + 1, area.y, words, theme.dim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: [Head; 3] = [left("NAME", 6), right("PID", 5), left("LOG", 8)];

    #[test]
    fn the_last_columns_go_first_and_are_named() {
        assert_eq!(Table::fit(&HEADS, 40, 9).widths, [9, 5, 20]);
        assert_eq!(Table::fit(&HEADS, 25, 9).widths, [6, 5, 8]);
        let narrow = Table::fit(&HEADS, 22, 20);
        assert_eq!(narrow.widths, [13, 5]);
        assert_eq!(narrow.hidden(), ["LOG"]);
        assert_eq!(Table::fit(&HEADS, 3, 9).hidden().len(), 3);
    }
}
