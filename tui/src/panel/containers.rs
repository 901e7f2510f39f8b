//! The containers of one pod, with what they use now.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{Container, Pod, Usage, container};

use super::list::{Click, Cursor};
use super::pager::labelled;
use super::pods::describe;
use super::processes::Processes;
use super::readings::{Cpu, Want};
use super::table::{self, Head, Table};
use super::{Context, Copied, Effect, Hint, Panel, columns, opened, why_of_pod};
use crate::actions::Subject;
use crate::feed::query::Query;
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

/// Memory from this share of its limit on is marked, in percent.
const NEARLY_FULL: u64 = 90;

const HEADS: [Head; 9] = [
    table::left("NAME", 8),
    table::left("STATE", 9),
    table::right("CPU", 6),
    table::right("MEMORY", 8),
    table::right("LIMIT", 8),
    table::left("EXIT", 16),
    table::right("PIDS", 4),
    table::right("TRY", 3),
    table::left("IMAGE", 30),
];

#[derive(Debug)]
pub struct Containers {
    pod: String,
    /// By id: containers come and go.
    selected: Option<String>,
    cursor: Cursor,
}

impl Containers {
    pub fn new(pod: &str) -> Self {
        Self { pod: pod.to_owned(), selected: None, cursor: Cursor::default() }
    }

    /// In the order they were made.
    fn rows<'a>(&self, cx: &Context<'a>) -> Vec<&'a Container> {
        let mut rows: Vec<_> = cx.model.containers.values().filter(|one| one.pod_id == self.pod).collect();
        rows.sort_by(|a, b| (a.created_at_ns, &a.name, &a.id).cmp(&(b.created_at_ns, &b.name, &b.id)));
        rows
    }

    /// Moves the cursor to where the selected container is now; at first to the newest that runs.
    fn sync(&mut self, rows: &[&Container]) {
        let running = |one: &&Container| one.state() == container::State::Running;
        let at = match &self.selected {
            Some(id) => rows.iter().position(|one| one.id == *id),
            None => rows.iter().position(running),
        };
        self.cursor.at = at.unwrap_or(self.cursor.at).min(rows.len().saturating_sub(1));
    }

    fn select(&mut self, rows: &[&Container]) {
        self.selected = rows.get(self.cursor.at).map(|one| one.id.clone());
    }

    fn usage(&self, id: &str, cx: &Context<'_>) -> Option<(Usage, Option<Cpu>)> {
        cx.answers.readings.usage(&self.pod, id)
    }

    fn head(&self, pod: &Pod, width: u16, cx: &Context<'_>) -> Vec<Line<'static>> {
        let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
        let (state, style) = columns::state(pod, cx);
        let age = columns::age(pod, cx.now_ns, glyphs.none);
        let mut lines = vec![Line::from(vec![
            Span::styled(format!(" {}  ", facts::full_name(pod)), theme.strong()),
            Span::styled(state, style),
            Span::styled(format!("  {age}  {}", facts::address(pod)), theme.dim()),
        ])];
        for problem in problems(pod) {
            let room = usize::from(width).saturating_sub(5);
            let mut parts = text::wrap(&problem, room);
            if parts.len() > 2 {
                // All of it is what `w` says.
                parts.truncate(2);
                let ellipsis = glyphs.ellipsis;
                parts[1] = text::fit(&parts[1], room.saturating_sub(text::width(ellipsis)), "") + ellipsis;
            }
            lines.extend(parts.into_iter().enumerate().map(|(index, part)| {
                Line::styled(format!(" {:<3}{part}", if index == 0 { WRONG } else { "" }), theme.bad())
            }));
        }
        if let Some(line) = self.usage_line(cx) {
            lines.push(line);
        }
        lines
    }

    /// What the pod uses as a whole, or why that is not known.
    fn usage_line(&self, cx: &Context<'_>) -> Option<Line<'static>> {
        let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
        let reading = cx.answers.readings.get(&Query::Usage { pod_id: self.pod.clone() })?;
        let mut line = Line::default();
        if let Some((usage, cpu)) = self.usage(&self.pod, cx) {
            let cpu = cpu.map_or_else(|| glyphs.none.to_owned(), |cpu| cpu.to_string());
            let (memory, style) = memory(&usage, cx);
            let limit = match usage.memory_limit_bytes {
                0 => String::new(),
                limit => format!(" of {}", text::bytes(limit)),
            };
            line.push_span(Span::raw(format!(" CPU {cpu}, memory ")));
            line.push_span(Span::styled(format!("{memory}{limit}"), style));
            line.push_span(Span::raw(format!(
                ", {}",
                text::plural(usize::try_from(usage.pids).unwrap_or(usize::MAX), "pid")
            )));
            if usage.rx_bytes + usage.tx_bytes > 0 {
                let (rx, tx) = (text::bytes(usage.rx_bytes), text::bytes(usage.tx_bytes));
                line.push_span(Span::styled(format!(", net {rx} in, {tx} out"), theme.dim()));
            }
        }
        if let Some(error) = &reading.error {
            let age = match reading.came_ns {
                0 => String::new(),
                came => format!(" (read {} ago)", text::age(cx.now_ns.saturating_sub(came))),
            };
            line.push_span(Span::styled(format!(" ! usage: {error}{age}"), theme.warn()));
        }
        Some(line)
    }

    fn row(&self, one: &Container, cx: &Context<'_>) -> Vec<(String, Style)> {
        let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
        let none = || (glyphs.none.to_owned(), theme.dim());
        let (sign, style) = match one.state() {
            container::State::Running => (glyphs.ready, theme.good()),
            container::State::Created => (glyphs.creating, theme.warn()),
            container::State::Exited if facts::container_failed(one) => (glyphs.failed, theme.bad()),
            container::State::Exited => (glyphs.idle, theme.dim()),
            container::State::Unknown | container::State::Unspecified => ("?", theme.warn()),
        };
        let usage = self.usage(&one.id, cx).filter(|_| one.state() == container::State::Running);
        let exit = facts::exit(one);
        let exit_style = if exit.starts_with(WRONG) { theme.bad() } else { theme.plain() };
        let (cpu, memory, limit, pids) = match &usage {
            None => (none(), none(), none(), none()),
            Some((usage, cpu)) => (
                cpu.map_or_else(none, |cpu| (cpu.to_string(), theme.plain())),
                memory(usage, cx),
                match usage.memory_limit_bytes {
                    0 => none(),
                    limit => (text::bytes(limit), theme.plain()),
                },
                (text::grouped(usage.pids), theme.plain()),
            ),
        };
        vec![
            (one.name.clone(), theme.strong()),
            (format!("{sign} {}", facts::container_state(one)), style),
            cpu,
            memory,
            limit,
            (exit, exit_style),
            pids,
            (one.attempt.to_string(), theme.dim()),
            (one.image.clone(), theme.dim()),
        ]
    }
}

/// Memory, marked where it nears its limit.
fn memory(usage: &Usage, cx: &Context<'_>) -> (String, Style) {
    let full = usage.memory_limit_bytes > 0
        && usage.memory_bytes.saturating_mul(100) >= usage.memory_limit_bytes.saturating_mul(NEARLY_FULL);
    let bytes = text::bytes(usage.memory_bytes);
    if full { (format!("!{bytes}"), cx.theme.bad()) } else { (bytes, cx.theme.plain()) }
}

/// What is wrong with the pod, a sentence each.
fn problems(pod: &Pod) -> Vec<String> {
    let mut problems = Vec::new();
    if !pod.error.is_empty() {
        problems.push(pod.error.clone());
    }
    for namespace in pod.namespaces.iter().filter(|namespace| namespace.wrong_owner) {
        let owner = facts::owner_word(namespace);
        problems.push(format!("{} {} is owned by {owner}, not by the pod", namespace.kind, namespace.inode));
    }
    if facts::sysfs(pod).starts_with(WRONG) {
        problems.push("sysfs was denied".to_owned());
    }
    problems
}

fn details(one: &Container, width: u16, cx: &Context<'_>) -> Vec<Line<'static>> {
    let (theme, mut lines) = (cx.theme, Vec::new());
    let when = |at: i64| {
        let age = text::age(cx.now_ns.saturating_sub(at));
        if at == 0 { "not yet".to_owned() } else { format!("{} ({age} ago)", super::checks::clock(at, cx)) }
    };
    let mut flags = Vec::new();
    if one.privileged {
        flags.push("! privileged");
    }
    if one.tty {
        flags.push("a terminal");
    }
    let pid = if one.pid == 0 { String::new() } else { format!("pid {}", one.pid) };
    let started = format!("{}  {pid}  {}", when(one.started_at_ns), flags.join(", "));
    let ended = match one.state() {
        container::State::Exited => {
            format!("{}  {}  {}", when(one.finished_at_ns), facts::exit(one), one.message)
        }
        _ => String::new(),
    };
    for (label, value) in [
        ("Image", one.image.as_str()),
        ("Started", started.trim_end()),
        ("Ended", ended.trim_end()),
        ("Log", one.log_path.as_str()),
        ("Id", one.id.as_str()),
    ] {
        labelled(&mut lines, label, value, width, 9, theme);
    }
    lines
}

impl Panel for Containers {
    fn title(&self, cx: &Context<'_>) -> String {
        cx.model.pod(Some(&self.pod)).map_or_else(|| "a pod that is gone".to_owned(), facts::full_name)
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        let Some(pod) = cx.model.pod(Some(&self.pod)) else {
            buf.set_string(area.x + 1, area.y, "this pod is gone", theme.dim());
            return;
        };
        let mut head = self.head(pod, area.width, cx);
        head.truncate(usize::from(area.height.saturating_sub(4)).max(1));
        let mut y = area.y;
        for line in &head {
            buf.set_line(area.x, y, line, area.width);
            y += 1;
        }
        let rows = self.rows(cx);
        self.sync(&rows);
        if rows.is_empty() {
            let words = "no containers: Enter shows the pod's processes";
            buf.set_stringn(area.x + 1, y + 1, words, usize::from(area.width), theme.dim());
            return;
        }
        // A blank line where there is room for one.
        y += u16::from(area.height > 12);
        let longest = rows.iter().map(|one| text::width(&one.name)).max().unwrap_or(0);
        let table = Table::fit(&HEADS, area.width, longest);
        let rest = area.bottom().saturating_sub(y + 1);
        let details = rows.get(self.cursor.at).map(|one| details(one, area.width, cx)).unwrap_or_default();
        // The rows come first, then what could not be shown, then the selected one in full.
        let hidden = u16::from(!table.hidden().is_empty());
        let height = text::cells(rows.len()).min(rest.saturating_sub(hidden)).max(1);
        table.heading(buf, Rect { y, height: 1, ..area }, theme);
        self.cursor.place(Rect { y: y + 1, height, ..area }, rows.len());
        for (area, index) in self.cursor.visible(rows.len()) {
            table.row(buf, area, self.row(rows[index], cx), index == self.cursor.at, theme);
        }
        y += 1 + height;
        if y < area.bottom() {
            table::not_shown(buf, Rect { y, height: 1, ..area }, &table.hidden(), theme);
        }
        y += hidden + 1;
        for line in &details {
            if y < area.bottom() {
                buf.set_line(area.x, y, line, area.width);
            }
            y += 1;
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        let rows = self.rows(cx);
        self.sync(&rows);
        let effect = match key.code {
            KeyCode::Enter => {
                let name = rows.get(self.cursor.at).map(|one| one.name.clone());
                Effect::Open(Box::new(Processes::of(&self.pod, name)))
            }
            KeyCode::Char('a') if key.modifiers.is_empty() => {
                Effect::Open(Box::new(Processes::of(&self.pod, None)))
            }
            KeyCode::Char('D') => describe(&self.pod),
            KeyCode::Char('w') => return Some(why_of_pod(&self.pod, cx)),
            _ => {
                let moved = self.cursor.handle_key(key, rows.len());
                if moved {
                    self.select(&rows);
                }
                return moved.then(Vec::new);
            }
        };
        Some(vec![effect])
    }

    fn click(&mut self, _column: u16, row: u16, cx: &Context<'_>) -> Vec<Effect> {
        let rows = self.rows(cx);
        let click = self.cursor.click(row, rows.len());
        if click != Click::Nothing {
            self.select(&rows);
        }
        opened(click)
    }

    fn subject(&self, cx: &Context<'_>) -> Option<Subject> {
        let rows = self.rows(cx);
        let selected = self.selected.as_ref().and_then(|id| rows.iter().find(|one| one.id == *id));
        let selected = selected.or_else(|| rows.get(self.cursor.at));
        Some(selected.map_or(Subject::Pod(self.pod.clone()), |one| Subject::Container(one.id.clone())))
    }

    fn wants(&self, _cx: &Context<'_>) -> Vec<Want> {
        vec![Want::every_seconds(Query::Usage { pod_id: self.pod.clone() }, 2)]
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        let rows = self.rows(cx);
        match rows.get(self.cursor.at) {
            Some(one) => Some(Copied::new("the container's id", &one.id)),
            None => Some(Copied::new("the pod's id", &self.pod)),
        }
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Esc", "back"),
            ("Enter", "processes"),
            ("l", "log"),
            ("w", "why"),
            ("e", "shell"),
            ("x", "stop"),
            ("D", "describe the pod"),
            ("a", "all its processes"),
            ("y", "copy the id"),
            ("j k", "move"),
        ]
    }
}
