//! Every namespace of the node as a tree: each user namespace with what it owns, and what keeps each alive.
//!
//! ```text
//! userns 4026531837  init, the host's
//! ├─ !! net 4026532401  LEAKED: no process; pin /run/netns/cni-4d1f
//! └─ userns 4026532281  of kube-system/coredns · uid 0 → 4221435904, 65,536 ids
//!    └─ net 4026532282  3 processes: pause, coredns
//! ```

use std::collections::{HashMap, HashSet};

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{HostNamespace, IdRange};

use super::list::Cursor;
use super::pager::{Pager, labelled};
use super::readings::Want;
use super::{Context, Copied, Effect, Hint, Panel, opened};
use crate::feed::query::Query;
use crate::fleet::NodeId;
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

/// The order of what a user namespace owns; user namespaces come after all of them.
const KINDS: [&str; 8] = ["net", "ipc", "uts", "pid", "mnt", "cgroup", "time", "user"];

/// Leaked, or owned by the wrong user namespace.
fn is_wrong(space: &HostNamespace) -> bool {
    facts::is_leaked(space) || space.wrong_owner
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    branches: String,
    inode: u64,
    kind: String,
}

#[derive(Debug, Default)]
pub struct Spaces {
    only_wrong: bool,
    rows: Vec<Row>,
    /// What the rows were made from: whose answer it was, when the answer was read, the filter, and `only_wrong`.
    key: Option<(NodeId, i64, String, bool)>,
    matched: usize,
    cursor: Cursor,
    /// The namespaces of the answer by inode.
    index: HashMap<u64, usize>,
}

impl Spaces {
    fn refresh(&mut self, cx: &Context<'_>) {
        let Some(answer) = cx.answers.readings.namespaces() else { return };
        let key = (cx.node, answer.read_at_ns, cx.shared.space_filter.text().to_owned(), self.only_wrong);
        if self.key.as_ref() == Some(&key) {
            return;
        }
        self.key = Some(key);
        let before = self.rows.get(self.cursor.at).map(|row| row.inode);
        let all = &answer.namespaces;
        let init = cx.model.node.init_userns;
        self.index = all.iter().enumerate().map(|(index, space)| (space.inode, index)).collect();
        let passes = |space: &HostNamespace| {
            (!self.only_wrong || is_wrong(space)) && cx.shared.space_filter.space(space, init)
        };
        // What matches, with its owners above it.
        let mut shown = HashSet::new();
        self.matched = 0;
        for space in all.iter().filter(|space| passes(space)) {
            self.matched += 1;
            let mut at = Some(space);
            while let Some(space) = at.filter(|space| shown.insert(space.inode)) {
                at = self.index.get(&space.owner_inode).map(|index| &all[*index]);
            }
        }
        let mut owned: HashMap<u64, Vec<&HostNamespace>> = HashMap::new();
        let mut roots = Vec::new();
        for space in all.iter().filter(|space| shown.contains(&space.inode)) {
            let known = space.owner_inode != space.inode && self.index.contains_key(&space.owner_inode);
            match known {
                true => owned.entry(space.owner_inode).or_default().push(space),
                false => roots.push(space),
            }
        }
        let rank = |space: &HostNamespace| KINDS.iter().position(|kind| *kind == space.kind);
        for spaces in owned.values_mut() {
            // What is wrong comes first.
            spaces.sort_by_key(|space| (!is_wrong(space), rank(space), space.inode));
        }
        roots.sort_by_key(|space| (space.inode != init, rank(space), space.inode));
        self.rows = tree(&roots, &owned, cx);
        let same = before.and_then(|inode| self.rows.iter().position(|row| row.inode == inode));
        self.cursor.at = same.unwrap_or(0);
    }

    fn at<'a>(&self, row: usize, cx: &Context<'a>) -> Option<&'a HostNamespace> {
        let index = *self.index.get(&self.rows.get(row)?.inode)?;
        cx.answers.readings.namespaces()?.namespaces.get(index)
    }

    fn state(&self, cx: &Context<'_>) -> Line<'static> {
        let (theme, dot) = (cx.theme, cx.theme.glyphs().dot);
        let mut line = Line::default();
        let Some(reading) = cx.answers.readings.get(&Query::Namespaces) else { return line };
        let Some(answer) = cx.answers.readings.namespaces() else {
            let words = reading.error.as_deref().unwrap_or("asking the daemon");
            line.push_span(Span::styled(format!(" {words}"), theme.dim()));
            return line;
        };
        let all = &answer.namespaces;
        let (leaked, wrong) = (
            all.iter().filter(|space| facts::is_leaked(space)).count(),
            all.iter().filter(|space| space.wrong_owner).count(),
        );
        for (count, words) in [(leaked, "leaked"), (wrong, "wrong owner")] {
            let (sign, style) = if count > 0 { ("!! ", theme.bad()) } else { ("", theme.dim()) };
            line.push_span(Span::styled(format!(" {sign}{count} {words} {dot}"), style));
        }
        line.push_span(Span::styled(format!(" {}", text::plural(all.len(), "namespace")), theme.strong()));
        if self.only_wrong || !cx.shared.space_filter.is_empty() {
            let what = if self.only_wrong { "only wrong" } else { "" };
            let filter = match cx.shared.space_filter.text() {
                "" => String::new(),
                text => format!("/{text}"),
            };
            let words = format!(" {dot} {}", format!("{what} {filter}").trim());
            line.push_span(Span::styled(format!("{words}: {} match", self.matched), theme.accent()));
        }
        if let Some(error) = &reading.error {
            line.push_span(Span::styled(format!(" {dot} ! {error}"), theme.warn()));
        }
        for one in &answer.degradations {
            let what = one.name.trim_start_matches("namespaces.");
            line.push_span(Span::styled(format!(" {dot} ! {what}"), theme.warn()));
        }
        // Last: the first to go where there is no room.
        let age = text::age(cx.now_ns.saturating_sub(answer.read_at_ns));
        line.push_span(Span::styled(format!(" {dot} read {age} ago"), theme.dim()));
        line
    }
}

/// The rows, owners before what they own. Owners that go in a circle are cut: the data is the daemon's.
fn tree(roots: &[&HostNamespace], owned: &HashMap<u64, Vec<&HostNamespace>>, cx: &Context<'_>) -> Vec<Row> {
    let glyphs = cx.theme.glyphs();
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    // Branches of the row itself, and of what is under it.
    let mut left: Vec<_> = roots.iter().rev().map(|space| (*space, String::new(), String::new())).collect();
    while let Some((space, branches, under)) = left.pop() {
        if !seen.insert(space.inode) {
            continue;
        }
        rows.push(Row { branches, inode: space.inode, kind: space.kind.clone() });
        let children = owned.get(&space.inode).map(Vec::as_slice).unwrap_or_default();
        for (index, child) in children.iter().enumerate().rev() {
            let last = index + 1 == children.len();
            let (branch, pipe) = if last { (glyphs.last, "   ") } else { (glyphs.branch, glyphs.pipe) };
            left.push((*child, format!("{under}{branch}"), format!("{under}{pipe}")));
        }
    }
    rows
}

fn ranges(map: &[IdRange], cx: &Context<'_>) -> String {
    let to = cx.theme.glyphs().arrow;
    let one = |range: &IdRange| {
        format!(
            "uid {} {to} {}, {} ids",
            range.container_id,
            range.host_id,
            text::grouped(range.length.into())
        )
    };
    map.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Who is in it, else what keeps it.
fn keepers(space: &HostNamespace) -> String {
    if space.process_count > 0 {
        let mut comms: Vec<_> = space.processes.iter().map(|process| process.comm.as_str()).collect();
        comms.dedup();
        let s = if space.process_count == 1 { "" } else { "es" };
        let more = if space.processes.len() < space.process_count as usize { ", …" } else { "" };
        return format!("{} process{s}: {}{more}", space.process_count, comms.join(", "));
    }
    let holds: Vec<_> = space.holds.iter().map(|hold| format!("{} {}", hold.kind, hold.what)).collect();
    match holds.as_slice() {
        [] => "no process".to_owned(),
        _ => format!("no process; {}", holds.join(", ")),
    }
}

/// `at_home`: in its pod's own user namespace, which names the pod already.
fn note(space: &HostNamespace, at_home: bool, cx: &Context<'_>) -> String {
    let init = cx.model.node.init_userns;
    let mut parts = Vec::new();
    if facts::is_leaked(space) {
        parts.push(format!("LEAKED: {}", keepers(space)));
    }
    if space.wrong_owner {
        let owner = match space.owner_inode {
            inode if inode == init => "init".to_owned(),
            inode => inode.to_string(),
        };
        parts.push(format!("wrong owner {owner}: of {}", space.pod_name));
    } else if !space.pod_name.is_empty() && !at_home {
        parts.push(format!("of {}", space.pod_name));
    }
    if space.kind == "user" {
        match space.inode {
            inode if inode == init => parts.push("init, the host's".to_owned()),
            _ => parts.extend((!space.uid_map.is_empty()).then(|| ranges(&space.uid_map, cx))),
        }
        // Root's are the runtimes'; others were made by users.
        if space.owner_uid != 0 {
            parts.push(format!("made by uid {}", space.owner_uid));
        }
    } else if space.host {
        parts.push("the host's".to_owned());
    }
    if !facts::is_leaked(space) {
        parts.push(keepers(space));
    }
    parts.join(" · ")
}

fn label(space: &HostNamespace) -> String {
    let kind = if space.kind == "user" { "userns" } else { &space.kind };
    format!("{kind} {}", space.inode)
}

impl Panel for Spaces {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Namespaces".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let theme = cx.theme;
        self.refresh(cx);
        buf.set_line(area.x, area.y, &self.state(cx), area.width);
        let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        self.cursor.place(list, self.rows.len());
        if self.rows.is_empty() && cx.answers.readings.namespaces().is_some() {
            let words =
                if self.only_wrong { "nothing leaked, no wrong owner" } else { "no namespace matches" };
            buf.set_stringn(area.x + 2, list.y, words, usize::from(area.width), theme.dim());
        }
        let all = cx.answers.readings.namespaces().map(|answer| &answer.namespaces[..]).unwrap_or_default();
        for (area, index) in self.cursor.visible(self.rows.len()) {
            let (row, Some(space)) = (&self.rows[index], self.at(index, cx)) else { continue };
            let wrong = is_wrong(space);
            let style = match row.kind.as_str() {
                _ if wrong => theme.bad(),
                "user" => theme.heading(),
                _ => theme.plain(),
            };
            let sign = if wrong { format!("{WRONG} ") } else { String::new() };
            let pointer = if index == self.cursor.at { theme.glyphs().pointer } else { " " };
            let owner = self.index.get(&space.owner_inode).and_then(|index| all.get(*index));
            let at_home = owner.is_some_and(|owner| !owner.host && owner.pod_id == space.pod_id);
            let mut line = Line::from(vec![
                Span::raw(text::left(pointer, 2, "")),
                Span::styled(row.branches.clone(), theme.dim()),
                Span::styled(format!("{sign}{}  ", label(space)), style),
            ]);
            let ellipsis = theme.glyphs().ellipsis;
            let note = note(space, at_home, cx).replace('·', theme.glyphs().dot).replace('…', ellipsis);
            let note = text::fit(&note, usize::from(area.width).saturating_sub(line.width()), ellipsis);
            line.push_span(Span::styled(note, if wrong { theme.bad() } else { theme.dim() }));
            buf.set_line(area.x, area.y, &line, area.width);
            if index == self.cursor.at {
                buf.set_style(area, theme.selected());
            }
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        self.refresh(cx);
        match key.code {
            KeyCode::Enter => {
                let space = self.at(self.cursor.at, cx).map(|space| space.inode);
                let open = |inode| Effect::Open(Box::new(Space { inode, pager: Pager::default() }));
                Some(space.map(open).into_iter().collect())
            }
            KeyCode::Char('d') if key.modifiers.is_empty() => {
                self.only_wrong = !self.only_wrong;
                self.refresh(cx);
                Some(Vec::new())
            }
            KeyCode::Char('e') => {
                let (at, len) = (self.cursor.at, self.rows.len());
                let mut below = (at + 1..len).chain(0..(at + 1).min(len));
                match below.find(|row| self.at(*row, cx).is_some_and(is_wrong)) {
                    Some(row) => self.cursor.at = row,
                    None => return Some(vec![Effect::Notice("nothing leaked, no wrong owner".to_owned())]),
                }
                Some(Vec::new())
            }
            KeyCode::Char('r') => Some(vec![Effect::ReadAgain]),
            _ => self.cursor.handle_key(key, self.rows.len()).then(Vec::new),
        }
    }

    fn click(&mut self, _column: u16, row: u16, _cx: &Context<'_>) -> Vec<Effect> {
        opened(self.cursor.click(row, self.rows.len()))
    }

    fn wants(&self, _cx: &Context<'_>) -> Vec<Want> {
        // It costs the daemon a walk through /proc.
        vec![Want::every_seconds(Query::Namespaces, 30)]
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        let space = self.at(self.cursor.at, cx)?;
        // The path of a pin is what one needs to take it away.
        match space.holds.iter().find(|hold| hold.kind == "pin" && space.process_count == 0) {
            Some(pin) => Some(Copied::new("the pin's path", &pin.what)),
            None => Some(Copied::new("the inode", &space.inode.to_string())),
        }
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Enter", "in full"),
            ("e", "next wrong"),
            ("d", "only wrong"),
            ("r", "read again"),
            ("/", "filter"),
            ("y", "copy its pin or inode"),
            ("j k", "move"),
        ]
    }
}

/// One namespace in full.
#[derive(Debug)]
struct Space {
    inode: u64,
    pager: Pager,
}

impl Space {
    fn lines(&self, space: &HostNamespace, width: u16, cx: &Context<'_>) -> Vec<Line<'static>> {
        const INDENT: usize = 10;
        let (theme, init) = (cx.theme, cx.model.node.init_userns);
        let style = if is_wrong(space) { theme.bad() } else { theme.strong() };
        let sign = if is_wrong(space) { "!! " } else { "" };
        let wrong = if space.wrong_owner { ", wrong owner" } else { "" };
        let words = format!(" {sign}{}  {}{wrong}", label(space), facts::space_state(space));
        let mut lines = vec![Line::styled(words, style), Line::default()];
        let owner = match space.owner_inode {
            0 => "not known".to_owned(),
            inode if inode == init => format!("userns {inode}, the host's"),
            inode => format!("userns {inode}"),
        };
        let (owner_label, maker) = match space.kind.as_str() {
            "user" => ("Parent", format!("uid {}", space.owner_uid)),
            _ => ("Owner", String::new()),
        };
        let map = if space.kind == "user" { ranges(&space.uid_map, cx) } else { String::new() };
        for (label, value) in [
            ("Wrong", space.message.as_str()),
            ("Pod", &space.pod_name),
            (owner_label, &owner),
            ("Made by", &maker),
            ("Ids", &map),
        ] {
            labelled(&mut lines, label, value, width, INDENT, theme);
        }
        lines.push(Line::default());
        let count = space.process_count;
        lines.push(Line::styled(format!(" PROCESSES  {count}"), theme.heading()));
        for process in &space.processes {
            let words = format!("   {:>8}  {}  {}", process.pid, process.comm, process.role);
            lines.push(Line::raw(words.trim_end().to_owned()));
        }
        if space.processes.len() < count as usize {
            let more = count as usize - space.processes.len();
            lines.push(Line::styled(format!("   and {more} more"), theme.dim()));
        }
        lines.push(Line::default());
        lines.push(Line::styled(format!(" HELD BY  {}", space.holds.len()), theme.heading()));
        for hold in &space.holds {
            let who = match hold.pid {
                0 => String::new(),
                pid => format!("{} ({pid})", hold.comm),
            };
            labelled(
                &mut lines,
                &format!("  {}", hold.kind),
                &format!("{}  {who}", hold.what),
                width,
                INDENT,
                theme,
            );
        }
        lines
    }
}

impl Panel for Space {
    fn title(&self, _cx: &Context<'_>) -> String {
        self.inode.to_string()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let answer = cx.answers.readings.namespaces();
        let space = answer.and_then(|answer| answer.namespaces.iter().find(|one| one.inode == self.inode));
        let lines = match space {
            Some(space) => self.lines(space, area.width, cx),
            None => vec![Line::raw(" this namespace is gone")],
        };
        self.pager.draw(buf, area, &lines, cx.theme);
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        if key.code == KeyCode::Char('w') {
            let answer = cx.answers.readings.namespaces();
            let space =
                answer.and_then(|answer| answer.namespaces.iter().find(|one| one.inode == self.inode));
            return Some(match space.filter(|space| !space.pod_id.is_empty()) {
                Some(space) => super::why_of_pod(&space.pod_id, cx),
                None => {
                    vec![Effect::Notice("no pod's namespace: the words above are all there is".to_owned())]
                }
            });
        }
        self.pager.handle_key(key).then(Vec::new)
    }

    fn copy(&self, _cx: &Context<'_>) -> Option<Copied> {
        Some(Copied::new("the inode", &self.inode.to_string()))
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("w", "why, for its pod"), ("y", "copy the inode"), ("j k", "scroll")]
    }
}
