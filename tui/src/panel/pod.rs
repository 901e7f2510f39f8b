//! One pod in full.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{IdRange, Pod};

use super::pager::{Pager, labelled};
use super::processes::Processes;
use super::{Context, Copied, Effect, Hint, Panel, columns, flow, why_of_pod};
use crate::actions::Subject;
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug)]
pub struct PodDetail {
    id: String,
    pager: Pager,
}

const INDENT: usize = 11;

impl PodDetail {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), pager: Pager::default() }
    }
}

fn ranges(map: &[IdRange], cx: &Context<'_>) -> String {
    let to = cx.theme.glyphs().arrow;
    let one = |range: &IdRange| {
        format!("{} {to} {}, {} ids", range.container_id, range.host_id, text::grouped(range.length.into()))
    };
    match map {
        [] => "the host's ids".to_owned(),
        _ => map.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

fn facts_of(pod: &Pod, lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let theme = cx.theme;
    let (state, style) = columns::state(pod, cx);
    let age = columns::age(pod, cx.now_ns, theme.glyphs().none);
    lines.push(Line::from(vec![
        Span::styled(format!(" {}  ", facts::full_name(pod)), theme.strong()),
        Span::styled(state, style),
        Span::styled(format!("  {age}"), theme.dim()),
    ]));
    lines.push(Line::default());
    if !pod.error.is_empty() {
        let error = format!("{WRONG} {}", pod.error);
        labelled(lines, "Error", &error, width, INDENT, theme);
    }
    let sysfs = pod.sysfs.as_ref().map_or("", |sysfs| sysfs.message.as_str());
    let checks = pod.checks.unwrap_or_default();
    for (label, value) in [
        ("Handler", format!("{} ({})", pod.handler, pod.flow)),
        ("Address", pod.ips.join(", ")),
        ("Hostname", pod.hostname.clone()),
        ("User ids", ranges(&pod.uid_map, cx)),
        ("Group ids", ranges(&pod.gid_map, cx)),
        ("Sysfs", format!("{}  {sysfs}", facts::sysfs(pod)).trim_end().to_owned()),
        (
            "Checks",
            format!("{} allowed, {} denied", text::grouped(checks.allowed), text::grouped(checks.denied)),
        ),
        ("Id", pod.id.clone()),
        ("Uid", format!("{}, attempt {}", pod.uid, pod.attempt)),
        ("Cgroup", pod.cgroup.clone()),
    ] {
        labelled(lines, label, &value, width, INDENT, theme);
    }
    let mut labels: Vec<_> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort_unstable();
    labelled(lines, "Labels", &labels.join("  "), width, INDENT, theme);
}

fn namespaces(pod: &Pod, lines: &mut Vec<Line<'static>>, cx: &Context<'_>) {
    let theme = cx.theme;
    lines.push(Line::default());
    lines.push(Line::styled(
        format!(" {:<9}{:<12}{:<22}{}", "KIND", "INODE", "OWNER", "PIN"),
        theme.heading(),
    ));
    for namespace in &pod.namespaces {
        let inode = facts::inode_text(namespace.inode, "?");
        let owner = match namespace.owner_inode {
            _ if namespace.host => "the host's".to_owned(),
            0 => facts::owner_word(namespace).to_owned(),
            owner => format!("{} {owner}", facts::owner_word(namespace)),
        };
        let (sign, style) = if namespace.wrong_owner { ("!! ", theme.bad()) } else { ("", theme.plain()) };
        lines.push(Line::from(vec![
            Span::raw(format!(" {:<9}{inode:<12}", namespace.kind)),
            Span::styled(format!("{:<22}", format!("{sign}{owner}")), style),
            Span::styled(namespace.pin.clone(), theme.dim()),
        ]));
    }
}

impl Panel for PodDetail {
    fn title(&self, cx: &Context<'_>) -> String {
        cx.model.pod(Some(&self.id)).map_or_else(|| "a pod that is gone".to_owned(), facts::full_name)
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let mut lines = Vec::new();
        match cx.model.pod(Some(&self.id)) {
            None => lines.push(Line::raw(" this pod is gone")),
            Some(pod) => {
                facts_of(pod, &mut lines, area.width, cx);
                namespaces(pod, &mut lines, cx);
                if let Some(timeline) = flow::timeline(pod, cx) {
                    lines.push(Line::default());
                    lines.push(Line::raw(format!(" {}", flow::summary(timeline, cx))));
                    lines.extend(flow::lines(timeline, area.width, cx));
                }
            }
        }
        self.pager.draw(buf, area, &lines, cx.theme);
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        match key.code {
            KeyCode::Enter => Some(vec![Effect::Open(Box::new(Processes::of(&self.id, None)))]),
            KeyCode::Char('w') => Some(why_of_pod(&self.id, cx)),
            _ => self.pager.handle_key(key).then(Vec::new),
        }
    }

    fn subject(&self, _cx: &Context<'_>) -> Option<Subject> {
        Some(Subject::Pod(self.id.clone()))
    }

    fn copy(&self, _cx: &Context<'_>) -> Option<Copied> {
        Some(Copied::new("the pod's id", &self.id))
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("Enter", "processes"), ("w", "why"), ("y", "copy its id"), ("j k", "scroll")]
    }
}
