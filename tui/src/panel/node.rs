//! The node, its daemon, the observer, every step down from the best with its reason, the pulls under way, and
//! the preflight checks.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{Observer, PullProgress, doctor_check};

use super::pager::{Pager, labelled};
use super::readings::Want;
use super::{Context, Copied, Effect, Hint, Panel, status};
use crate::feed::query::Query;
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug, Default)]
pub struct NodeView {
    pager: Pager,
}

const INDENT: usize = 12;
/// The widest bar of a pull.
const BAR: usize = 40;

/// Where each check went: the three add up to what was produced, or the numbers are wrong and it says so.
fn equation(observer: &Observer) -> (String, bool) {
    let sum = observer.seen.saturating_add(observer.sampled_out).saturating_add(observer.lost);
    let right = sum == observer.produced;
    let words = format!(
        "{} produced {} {} seen + {} sampled out + {} lost",
        text::grouped(observer.produced),
        if right { "=" } else { "is not" },
        text::grouped(observer.seen),
        text::grouped(observer.sampled_out),
        text::grouped(observer.lost),
    );
    (words, right)
}

fn facts_of(lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let (node, observer, access) = (&cx.model.node, &cx.model.observer, &cx.model.access);
    let inode = |inode| facts::inode_text(inode, "?");
    let network = match node.network_ready {
        true => "ready".to_owned(),
        false => format!("{WRONG} not ready: {}", node.network_message),
    };
    let up = match node.started_at_ns {
        0 => String::new(),
        started => format!(", up {}", text::age(cx.now_ns.saturating_sub(started))),
    };
    let namespaces = format!(
        "user {}, net {}, mnt {}, pid {}",
        inode(node.init_userns),
        inode(node.init_netns),
        inode(node.init_mntns),
        inode(node.init_pidns)
    );
    let you = match (access.identity.as_str(), access.may_act) {
        ("", _) => String::new(),
        (identity, true) => format!("{identity}, may act"),
        (identity, false) => format!("{identity}, may look: {}", access.why_not),
    };
    let (equation, right) = equation(observer);
    let sign = if observer.lost > 0 || !right { "!! " } else { "" };
    let verdicts =
        format!("{} allowed, {} denied", text::grouped(observer.allowed), text::grouped(observer.denied));
    let history = match observer.history_bytes {
        0 => String::new(),
        bytes => format!("{}, {} forgotten", text::bytes(bytes), text::grouped(observer.forgotten)),
    };
    let (observer_state, _) = status::observer(cx);
    let colon = if observer.message.is_empty() { "" } else { ": " };
    for (label, value) in [
        ("Node", node.name.clone()),
        ("Kernel", format!("{}, cgroup {}", node.kernel, node.cgroup)),
        ("sandboxd", format!("{}{up}", node.sandboxd_version)),
        ("You", you),
        ("Network", network),
        ("Host's own", namespaces),
        ("Observer", format!("{observer_state}{colon}{}", observer.message)),
        ("Checks", format!("{sign}{equation}")),
        ("", verdicts),
        ("History", history),
    ] {
        labelled(lines, label, value.trim(), width, INDENT, cx.theme);
    }
}

fn heading(lines: &mut Vec<Line<'static>>, words: &str, note: &str, cx: &Context<'_>) {
    lines.push(Line::default());
    lines.push(Line::from(vec![
        Span::styled(format!(" {words}"), cx.theme.heading()),
        Span::styled(format!("  {note}"), cx.theme.dim()),
    ]));
}

fn degradations(lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let all: Vec<_> = cx.model.node.degradations.iter().chain(&cx.model.observer.degradations).collect();
    heading(lines, "DEGRADED", if all.is_empty() { "nothing" } else { "" }, cx);
    for one in all {
        lines.push(Line::styled(format!(" ! {}", one.name), cx.theme.warn()));
        labelled(lines, "", &one.message, width, 2, cx.theme);
    }
}

fn pulls(lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let error = cx.answers.readings.get(&Query::Pulls).and_then(|reading| reading.error.clone());
    let pulls = cx.answers.readings.pulls();
    let note = match (error, pulls) {
        (Some(error), _) => format!("! {error}"),
        (None, None) => "asking the daemon".to_owned(),
        (None, Some(pulls)) if pulls.pulls.is_empty() => "none".to_owned(),
        _ => String::new(),
    };
    heading(lines, "PULLS", &note, cx);
    for pull in pulls.map(|answer| &answer.pulls[..]).unwrap_or_default() {
        one_pull(lines, pull, width, cx);
    }
}

fn one_pull(lines: &mut Vec<Line<'static>>, pull: &PullProgress, width: u16, cx: &Context<'_>) {
    let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
    let (done, total) = pull.layers.iter().fold((0_u64, 0_u64), |(done, total), layer| {
        (done.saturating_add(layer.done), total.saturating_add(layer.total))
    });
    let room = usize::from(width).saturating_sub(40).clamp(8, BAR);
    let bar = |done: u64, total: u64| {
        let full = u128::from(done.min(total)) * room as u128 / u128::from(total.max(1));
        let full = usize::try_from(full).unwrap_or(room).min(room);
        (glyphs.own_bar.repeat(full), glyphs.cni_bar.repeat(room - full))
    };
    let took = text::age(pull.elapsed_ns);
    lines.push(Line::from(vec![
        Span::styled(format!("  {}", pull.reference), theme.strong()),
        Span::raw(format!("  {}", pull.state)),
        Span::styled(format!("  {took}  {} of {}", text::bytes(done), text::bytes(total)), theme.dim()),
    ]));
    for layer in &pull.layers {
        let (full, left) = bar(layer.done, layer.total);
        let digest = layer.digest.split_once(':').map_or(layer.digest.as_str(), |(_, hex)| hex);
        let digest = text::fit(digest, 12, "");
        let percent = u128::from(layer.done.min(layer.total)) * 100 / u128::from(layer.total.max(1));
        lines.push(Line::from(vec![
            Span::styled(format!("    {digest:<12}  "), theme.dim()),
            Span::styled(full, theme.accent()),
            Span::styled(left, theme.dim()),
            Span::raw(format!(" {percent:>3} %  {}", layer.state)),
        ]));
    }
}

fn doctor(lines: &mut Vec<Line<'static>>, width: u16, cx: &Context<'_>) {
    let theme = cx.theme;
    let error = cx.answers.readings.get(&Query::Doctor).and_then(|reading| reading.error.clone());
    let Some(answer) = cx.answers.readings.doctor() else {
        let note = error.map_or_else(|| "asking the daemon".to_owned(), |error| format!("! {error}"));
        return heading(lines, "DOCTOR", &note, cx);
    };
    let count = |verdict| answer.checks.iter().filter(|check| check.verdict() == verdict).count();
    let (warned, failed) = (count(doctor_check::Verdict::Warn), count(doctor_check::Verdict::Fail));
    let fine = answer.checks.len() - warned - failed;
    heading(lines, "DOCTOR", &format!("{fine} fine, {warned} warnings, {failed} failed"), cx);
    let mut checks: Vec<_> = answer.checks.iter().collect();
    // What fails first.
    checks.sort_by_key(|check| std::cmp::Reverse(check.verdict));
    for check in checks {
        let (sign, style) = match check.verdict() {
            doctor_check::Verdict::Ok => ("ok", theme.good()),
            doctor_check::Verdict::Warn => ("!  warn", theme.warn()),
            doctor_check::Verdict::Fail => ("!! FAIL", theme.bad()),
            doctor_check::Verdict::Unspecified => ("?", theme.dim()),
        };
        let mut words = format!("{}: {}", check.name, check.reason);
        if check.reason.is_empty() {
            words.clone_from(&check.name);
        }
        if !check.remedy.is_empty() {
            words += &format!(" {} {}", theme.glyphs().arrow, check.remedy);
        }
        let room = usize::from(width).saturating_sub(12);
        for (index, part) in text::wrap(&words, room).into_iter().enumerate() {
            let sign = if index == 0 { sign } else { "" };
            lines.push(Line::from(vec![Span::styled(format!("  {sign:<8}"), style), Span::raw(part)]));
        }
    }
}

impl Panel for NodeView {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Node".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let mut lines = Vec::new();
        facts_of(&mut lines, area.width, cx);
        degradations(&mut lines, area.width, cx);
        pulls(&mut lines, area.width, cx);
        doctor(&mut lines, area.width, cx);
        self.pager.draw(buf, area, &lines, cx.theme);
    }

    fn handle_key(&mut self, key: KeyEvent, _cx: &Context<'_>) -> Option<Vec<Effect>> {
        match key.code {
            KeyCode::Char('r') => Some(vec![Effect::ReadAgain]),
            _ => self.pager.handle_key(key).then(Vec::new),
        }
    }

    fn wants(&self, _cx: &Context<'_>) -> Vec<Want> {
        vec![Want::every_seconds(Query::Pulls, 2), Want::every_seconds(Query::Doctor, 300)]
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        Some(Copied::new("the node's name", &cx.model.node.name))
    }

    fn hints(&self) -> &'static [Hint] {
        &[("j k", "scroll"), ("r", "read again"), ("y", "copy its name")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_add_up_are_told() {
        let mut observer = Observer { produced: 7, seen: 4, sampled_out: 2, lost: 1, ..Observer::default() };
        assert_eq!(equation(&observer), ("7 produced = 4 seen + 2 sampled out + 1 lost".to_owned(), true));
        observer.lost = 0;
        assert_eq!(equation(&observer).0, "7 produced is not 4 seen + 2 sampled out + 0 lost");
    }
}
