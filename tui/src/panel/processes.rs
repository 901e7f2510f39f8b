//! The processes of one pod or of one of its containers, with what the kernel allowed and denied each of them.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sandboxd_api::console::Process;

use super::list::Cursor;
use super::{Context, Copied, Effect, Hint, Panel, checks, opened};
use crate::model::facts;
use crate::text;

#[derive(Debug)]
pub struct Processes {
    id: String,
    /// Of this container; of the whole pod without.
    container: Option<String>,
    cursor: Cursor,
}

impl Processes {
    pub fn of(id: &str, container: Option<String>) -> Self {
        Self { id: id.to_owned(), container, cursor: Cursor::default() }
    }

    fn rows<'a>(&self, cx: &Context<'a>) -> Vec<&'a Process> {
        let role = self.container.as_ref().map(|name| format!("container:{name}"));
        let of_it = |process: &&Process| role.as_ref().is_none_or(|role| process.role == *role);
        cx.model
            .pod(Some(&self.id))
            .map(|pod| pod.processes.iter().filter(of_it).collect())
            .unwrap_or_default()
    }
}

impl Panel for Processes {
    fn title(&self, _cx: &Context<'_>) -> String {
        self.container.clone().unwrap_or_else(|| "processes".to_owned())
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
        let rows = self.rows(cx);
        let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        self.cursor.place(list, rows.len());
        if rows.is_empty() {
            buf.set_string(area.x + 2, list.y, "no processes", theme.dim());
        }
        for (area, index) in self.cursor.visible(rows.len()) {
            let process = rows[index];
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
            let pointer = if index == self.cursor.at { theme.glyphs().pointer } else { " " };
            let line = Line::from(vec![
                Span::raw(text::left(pointer, 2, "")),
                Span::raw(format!("{:>8}  ", process.pid)),
                Span::styled(fit(&process.role, 20), theme.strong()),
                Span::styled(format!("{denied:>7}"), if denied > 0 { theme.bad() } else { theme.dim() }),
                Span::styled(format!("{allowed:>9}  "), theme.dim()),
                Span::raw(fit(&process.comm, 15) + " "),
                Span::raw(newest),
            ]);
            buf.set_line(area.x, area.y, &line, area.width);
            if index == self.cursor.at {
                buf.set_style(area, theme.selected());
            }
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        if key.code == KeyCode::Enter {
            let rows = self.rows(cx);
            return Some(
                rows.get(self.cursor.at)
                    .map(|process| Effect::Checks(format!("pid:{}", process.pid)))
                    .into_iter()
                    .collect(),
            );
        }
        self.cursor.handle_key(key, self.rows(cx).len()).then(Vec::new)
    }

    fn click(&mut self, _column: u16, row: u16, cx: &Context<'_>) -> Vec<Effect> {
        opened(self.cursor.click(row, self.rows(cx).len()))
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        self.rows(cx).get(self.cursor.at).map(|process| Copied::new("the pid", &process.pid.to_string()))
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("Enter", "its checks"), ("y", "copy its pid"), ("j k", "move")]
    }
}
