//! Why something was denied, in words: the explanation of one check, or of a pod's failure.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use sandboxd_api::console::{Check, Explanation};

use super::pager::{Pager, labelled};
use super::{Context, Copied, Effect, Hint, Panel, why_of_check};
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug)]
enum Subject {
    Check(u64),
    Pod(String),
}

#[derive(Debug)]
pub struct Why {
    subject: Subject,
    pager: Pager,
}

/// Width of the labels.
const INDENT: usize = 10;

impl Why {
    pub fn check(seq: u64) -> Self {
        Self { subject: Subject::Check(seq), pager: Pager::default() }
    }

    pub fn pod(id: &str) -> Self {
        Self { subject: Subject::Pod(id.to_owned()), pager: Pager::default() }
    }

    fn lines(&self, width: u16, cx: &Context<'_>) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        match &self.subject {
            Subject::Check(seq) => check_lines(*seq, &mut lines, width, cx),
            Subject::Pod(id) => pod_lines(id, &mut lines, width, cx),
        }
        lines
    }
}

fn check_lines(seq: u64, lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let answer = cx.answers.explained.get(&seq);
    let told = answer.and_then(|answer| answer.as_ref().ok());
    let Some(check) = cx.model.check(seq).or_else(|| told.and_then(|told| told.check.as_ref())) else {
        lines.push(Line::raw(" this check is no longer kept"));
        return;
    };
    match (told.and_then(|told| told.explanation.as_ref()), answer) {
        (Some(explanation), _) => explained(explanation, lines, width, cx),
        _ if !facts::has_reason(check) => heading("allowed: nothing to explain", false, lines, width, cx),
        (None, Some(Err(error))) => heading(&format!("no explanation: {error}"), true, lines, width, cx),
        (None, Some(Ok(_))) => {
            heading("the daemon has no explanation for this check", true, lines, width, cx);
        }
        (None, None) => heading("asking the daemon", false, lines, width, cx),
    }
    lines.push(Line::default());
    observed(check, lines, width, cx);
}

fn pod_lines(id: &str, lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let Some(pod) = cx.model.pod(Some(id)) else {
        lines.push(Line::raw(" this pod is gone"));
        return;
    };
    match &pod.explanation {
        Some(explanation) => explained(explanation, lines, width, cx),
        None => {
            heading(&format!("{} is {}", facts::full_name(pod), facts::state(pod)), true, lines, width, cx);
        }
    }
    lines.push(Line::default());
    labelled(lines, "Error", &pod.error, width, INDENT, cx.theme);
    let flow = format!("{}, handler {}", pod.flow, pod.handler);
    labelled(lines, "Flow", &flow, width, INDENT, cx.theme);
    if let Some(check) = cx.model.last_denied(id) {
        lines.push(Line::default());
        lines.push(Line::styled(" The newest denied check of this pod (w explains it)", cx.theme.heading()));
        observed(check, lines, width, cx);
    }
}

fn heading(words: &str, wrong: bool, lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let (sign, style) = if wrong { (WRONG, cx.theme.bad()) } else { (" ", cx.theme.strong()) };
    for (index, part) in text::wrap(words, usize::from(width).saturating_sub(5)).into_iter().enumerate() {
        let sign = if index == 0 { sign } else { "" };
        lines.push(Line::styled(format!(" {sign:<3}{part}"), style));
    }
}

fn explained(explanation: &Explanation, lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    heading(&explanation.headline, true, lines, width, cx);
    lines.push(Line::default());
    for (label, value) in [
        ("Asked", &explanation.asked),
        ("In", &explanation.target),
        ("Caller", &explanation.caller),
        ("Made by", &explanation.made_by),
        ("Fix", &explanation.fix),
    ] {
        labelled(lines, label, value, width, INDENT, cx.theme);
    }
    lines.push(Line::default());
    labelled(lines, "Reason", &explanation.reason, width, INDENT, cx.theme);
    labelled(lines, "Sources", &explanation.sources.join("; "), width, INDENT, cx.theme);
}

/// The check as it was recorded.
fn observed(check: &Check, lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let theme = cx.theme;
    let when = format!("{} (check {})", super::checks::clock(check.time_ns, cx), check.seq);
    let mut who = format!("{} pid {}", check.comm, check.pid);
    if check.tid != check.pid {
        who += &format!(" thread {}", check.tid);
    }
    if !check.pod_name.is_empty() {
        who += &format!(" of {}", check.pod_name);
    }
    if !check.container.is_empty() {
        who += &format!(", {}", check.container);
    }
    let what = format!("{}: {} {}", facts::call(check), facts::capability(check), facts::verdict(check));
    let inode = |inode| facts::inode_text(inode, "?");
    let spaces = format!(
        "userns {}, asked in userns {}, net {}, mnt {}, pid {}",
        inode(check.caller_userns),
        inode(check.target_userns),
        inode(check.caller_netns),
        inode(check.caller_mntns),
        inode(check.caller_pidns),
    );
    for (label, value) in [("When", &when), ("Who", &who), ("Call", &what), ("Inodes", &spaces)] {
        labelled(lines, label, value, width, INDENT, theme);
    }
}

impl Panel for Why {
    fn title(&self, cx: &Context<'_>) -> String {
        match &self.subject {
            Subject::Check(seq) => format!("Why check {seq}"),
            Subject::Pod(id) => {
                format!("Why {}", cx.model.pod(Some(id)).map_or_else(|| "a pod".to_owned(), facts::full_name))
            }
        }
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let lines = self.lines(area.width, cx);
        self.pager.draw(buf, area, &lines, cx.theme);
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        if key.code == KeyCode::Char('w') {
            return Some(match &self.subject {
                Subject::Pod(id) => {
                    cx.model.last_denied(id).map(|check| why_of_check(check.seq, cx)).unwrap_or_default()
                }
                Subject::Check(_) => Vec::new(),
            });
        }
        self.pager.handle_key(key).then(Vec::new)
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        let lines = self.lines(u16::MAX, cx);
        let lines: Vec<_> = lines.iter().map(|line| line.to_string().trim().to_owned()).collect();
        Some(Copied::new("the explanation", lines.join("\n").trim()))
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("y", "copy the explanation"), ("j k", "scroll")]
    }
}
