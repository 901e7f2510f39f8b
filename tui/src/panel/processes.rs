//! The processes of one pod, with what the kernel allowed and denied each of them.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Context, Effect, Hint, Panel, checks, list};
use crate::model::facts;
use crate::text;

#[derive(Debug)]
pub struct Processes {
    id: String,
    at: usize,
    offset: usize,
    rows: Rect,
}

impl Processes {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), at: 0, offset: 0, rows: Rect::ZERO }
    }

    fn len(&self, cx: &Context<'_>) -> usize {
        cx.model.pod(Some(&self.id)).map_or(0, |pod| pod.processes.len())
    }
}

impl Panel for Processes {
    fn title(&self, _cx: &Context<'_>) -> String {
        "processes".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        let Some(pod) = cx.model.pod(Some(&self.id)) else {
            buf.set_string(area.x + 1, area.y, "this pod is gone", theme.dim());
            return;
        };
        let head = format!(
            "  {:>8}  {:<20}{:>7}{:>9}  {:<16}{}",
            "PID", "ROLE", "DENIED", "ALLOWED", "COMMAND", "NEWEST CHECK"
        );
        buf.set_stringn(area.x, area.y, head, usize::from(area.width), theme.heading());
        self.rows = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        self.at = self.at.min(pod.processes.len().saturating_sub(1));
        self.offset =
            list::scrolled(self.offset, self.at, usize::from(self.rows.height), pod.processes.len());
        if pod.processes.is_empty() {
            buf.set_string(area.x + 2, self.rows.y, "no processes", theme.dim());
        }
        let visible = pod.processes.iter().enumerate().skip(self.offset);
        for (y, (index, process)) in (self.rows.y..self.rows.bottom()).zip(visible) {
            // By pod as well: pids come round again.
            let mut of_it =
                cx.model.checks.iter().filter(|check| check.pid == process.pid && check.pod_id == pod.id);
            let denied = of_it.clone().filter(|check| facts::is_denied(check)).count();
            let allowed = of_it.clone().count() - denied;
            let newest = of_it.next_back().map_or_else(String::new, |check| {
                let what = format!("{} {}", facts::call(check), facts::verdict(check));
                format!("{}  {what}", checks::clock(check.time_ns, cx))
            });
            let fit = |value: &str, columns| text::left(value, columns, theme.glyphs().ellipsis);
            let pointer = if index == self.at { theme.glyphs().pointer } else { " " };
            let line = Line::from(vec![
                Span::raw(text::left(pointer, 2, "")),
                Span::raw(format!("{:>8}  ", process.pid)),
                Span::styled(fit(&process.role, 20), theme.strong()),
                Span::styled(format!("{denied:>7}"), if denied > 0 { theme.bad() } else { theme.dim() }),
                Span::styled(format!("{allowed:>9}  "), theme.dim()),
                Span::raw(fit(&process.comm, 15) + " "),
                Span::raw(newest),
            ]);
            buf.set_line(area.x, y, &line, area.width);
            if index == self.at {
                buf.set_style(Rect { y, height: 1, ..area }, theme.selected());
            }
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        if key.code == KeyCode::Enter {
            let process = cx.model.pod(Some(&self.id)).and_then(|pod| pod.processes.get(self.at));
            return Some(process.map(|process| Effect::ChecksOf(process.pid)).into_iter().collect());
        }
        self.at = list::moved(key, self.at, self.len(cx), usize::from(self.rows.height))?;
        Some(Vec::new())
    }

    fn click(&mut self, _column: u16, row: u16, cx: &Context<'_>) -> Vec<Effect> {
        if let Some(y) = row.checked_sub(self.rows.y) {
            self.at = (self.offset + usize::from(y)).min(self.len(cx).saturating_sub(1));
        }
        Vec::new()
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("Enter", "its checks"), ("j k", "move")]
    }
}
