//! The ownership tree: each user namespace, the namespaces it owns, and the pods and processes in it.
//!
//! ```text
//! userns 4026531837  init, the host's
//! └─ !! net 4026532301  of default/old, which lives in userns 4026532300
//! userns 4026532300  uid 0 → 4221435904, 65,536 ids
//! ├─ !! net 4026532301  owned by init, not by this userns
//! ├─ ipc 4026532302  uts 4026532303  pid 4026532304  mnt 4026532305
//! └─ default/old  ✗ failed
//!    └─ 1203 pause  infra
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;

use crossterm::event::KeyEvent;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use sandboxd_api::console::{Namespace, Pod};

use super::pods::pod_key;
use super::{Context, Copied, Effect, Hint, Panel, columns, list};
use crate::actions::Subject;
use crate::fleet::{NodeId, PodKey};
use crate::model::facts;
use crate::text;
use crate::theme::{Theme, WRONG};

/// One line of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// At most two: a thousand pods are ten thousand lines, and most have no text of their own here.
    branches: [&'static str; 2],
    what: What,
    label: String,
    note: Cow<'static, str>,
    wrong: bool,
    /// The pod it belongs to, so that its keys work here too.
    pub pod: Option<Rc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Userns,
    Namespace,
    Pod,
    Process,
}

/// The order of namespaces under their owner.
const KINDS: [&str; 7] = ["net", "ipc", "uts", "pid", "mnt", "cgroup", "time"];

/// Of one with a user namespace of its own: that, two lines of namespaces, itself and a few processes.
const ROWS_OF_A_POD: usize = 8;

/// From this width on four namespaces stand on one line.
const WIDE: u16 = 70;

/// What one user namespace owns and who lives in it.
#[derive(Debug)]
struct Owned<'a> {
    inode: u64,
    /// Once for each of its pods, in the order of kinds and inodes.
    namespaces: Vec<Named<'a>>,
    pods: Vec<&'a Member<'a>>,
}

/// The rank of its kind, a namespace, and a pod that is in it.
type Named<'a> = (usize, &'a Namespace, &'a Member<'a>);

/// A pod, and its id for the lines that are its.
#[derive(Debug)]
struct Member<'a> {
    pod: &'a Pod,
    id: Rc<str>,
}

/// All user namespaces, in the order in which they are named.
#[derive(Debug, Default)]
struct Owners<'a> {
    all: Vec<Owned<'a>>,
    by_inode: HashMap<u64, usize>,
    /// The one asked for last: mostly that of the next question too.
    last: usize,
}

impl<'a> Owners<'a> {
    fn of(&mut self, inode: u64) -> &mut Owned<'a> {
        if self.all.get(self.last).is_none_or(|last| last.inode != inode) {
            self.last = *self.by_inode.entry(inode).or_insert(self.all.len());
            if self.last == self.all.len() {
                self.all.push(Owned { inode, namespaces: Vec::new(), pods: Vec::new() });
            }
        }
        &mut self.all[self.last]
    }
}

/// The lines of the tree for these pods, in their order.
pub fn build<'a>(ids: impl Iterator<Item = &'a PodKey>, width: u16, cx: &'a Context<'_>) -> Vec<Row> {
    let wide = width >= WIDE;
    let init = cx.model.node.init_userns;
    let pods = ids.filter_map(|id| cx.model.pod(Some(id)));
    let members: Vec<_> = pods.map(|pod| Member { pod, id: pod.id.as_str().into() }).collect();
    let mut owners = Owners::default();
    for member in &members {
        let home = home(member.pod, init);
        for namespace in member.pod.namespaces.iter().filter(|one| one.kind != "user" && !one.host) {
            let owner = if namespace.owner_inode == 0 { home } else { namespace.owner_inode };
            let rank = KINDS.iter().position(|kind| *kind == namespace.kind).unwrap_or(KINDS.len());
            owners.of(owner).namespaces.push((rank, namespace, member));
        }
        owners.of(home).pods.push(member);
    }
    // The host's own first, then as the pods come.
    owners.all.sort_by_key(|owned| owned.inode != init);
    let mut rows = Vec::with_capacity(members.len() * ROWS_OF_A_POD);
    for owned in &mut owners.all {
        owned.namespaces.sort_by_key(|(rank, namespace, _)| (*rank, namespace.inode));
        userns(&mut rows, owned, wide, cx);
    }
    rows
}

/// Stands for the user namespace of pods that were to have one and have none: they failed before, or it is gone.
const NONE: u64 = 0;

/// The user namespace the pod lives in: its own, or the host's.
fn home(pod: &Pod, init: u64) -> u64 {
    match facts::namespace(pod, "user") {
        Some(user) if !user.host && user.inode != 0 => user.inode,
        None if !pod.uid_map.is_empty() => NONE,
        _ => init,
    }
}

fn userns(rows: &mut Vec<Row>, owned: &Owned<'_>, wide: bool, cx: &Context<'_>) {
    let inode = owned.inode;
    let glyphs = cx.theme.glyphs();
    let init = cx.model.node.init_userns;
    let first = owned.pods.first().copied();
    let note = match first.map(|member| member.pod.uid_map.as_slice()) {
        _ if inode == init => "init, the host's".into(),
        _ if inode == NONE => "of pods that were to have one of their own".into(),
        Some([range, ..]) => {
            let to = glyphs.arrow;
            format!(
                "uid {} {to} {}, {} ids",
                range.container_id,
                range.host_id,
                text::grouped(range.length.into())
            )
            .into()
        }
        _ => "of no pod shown here".into(),
    };
    let row = |branches, what, label, note, wrong, member: Option<&Member<'_>>| {
        let pod = member.map(|member| Rc::clone(&member.id));
        Row { branches, what, label, note, wrong, pod }
    };
    let label = format!("userns {}", facts::inode_text(inode, glyphs.none));
    let owner = first.filter(|_| inode != init);
    rows.push(row(["", ""], What::Userns, label, note, false, owner));

    let start = rows.len();
    // What should be owned here and is not, and what is owned here and should not be, come first.
    for member in &owned.pods {
        for namespace in
            member.pod.namespaces.iter().filter(|one| one.wrong_owner && one.owner_inode != inode)
        {
            let by = owner_name(namespace, init);
            let whose = if inode == NONE { "the pod's own" } else { "this userns" };
            let note = format!("owned by {by}, not by {whose}").into();
            rows.push(row(["", ""], What::Namespace, label_of(namespace), note, true, Some(member)));
        }
    }
    for wrong in [true, false] {
        let same = |a: &Named<'_>, b: &Named<'_>| (a.0, a.1.inode) == (b.0, b.1.inode);
        for pods in owned.namespaces.chunk_by(same) {
            let Some((_, namespace, first)) = pods.first().filter(|one| one.1.wrong_owner == wrong) else {
                continue;
            };
            let note = namespace_note(namespace, pods, inode, init);
            let quiet = |row: &Row| !row.wrong && !row.label.starts_with("net ") && row.note == note;
            match rows[start..].last_mut() {
                // The quiet ones of one pod share a line.
                Some(before) if wide && namespace.kind != "net" && quiet(before) => {
                    before.label += "  ";
                    write_label(&mut before.label, namespace);
                }
                _ => {
                    let label = label_of(namespace);
                    rows.push(row(["", ""], What::Namespace, label, note, wrong, Some(first)));
                }
            }
        }
    }
    let count = rows.len() - start + owned.pods.len();
    for (index, child) in rows[start..].iter_mut().enumerate() {
        child.branches[0] = if index + 1 == count { glyphs.last } else { glyphs.branch };
    }
    for (index, member) in owned.pods.iter().enumerate() {
        let pod = member.pod;
        let last = index + 1 == owned.pods.len();
        let branch = if last { glyphs.last } else { glyphs.branch };
        let note = columns::state(pod, cx).0.into();
        rows.push(row([branch, ""], What::Pod, facts::full_name(pod), note, false, Some(member)));
        let stem = if last { "   " } else { glyphs.pipe };
        for (index, process) in pod.processes.iter().enumerate() {
            let branch = if index + 1 == pod.processes.len() { glyphs.last } else { glyphs.branch };
            let label = format!("{} {}", process.pid, process.comm);
            let note = process.role.clone().into();
            rows.push(row([stem, branch], What::Process, label, note, false, Some(member)));
        }
    }
}

fn label_of(namespace: &Namespace) -> String {
    let mut label = String::with_capacity(16);
    write_label(&mut label, namespace);
    label
}

fn write_label(label: &mut String, namespace: &Namespace) {
    let _ = match namespace.inode {
        0 => write!(label, "{} ?", namespace.kind),
        inode => write!(label, "{} {inode}", namespace.kind),
    };
}

fn owner_name(namespace: &Namespace, init: u64) -> String {
    match namespace.owner_inode {
        0 => facts::owner_word(namespace).to_owned(),
        inode if inode == init => "init".to_owned(),
        inode => format!("userns {inode}"),
    }
}

fn namespace_note(namespace: &Namespace, pods: &[Named<'_>], owner: u64, init: u64) -> Cow<'static, str> {
    let names = || pods.iter().map(|one| facts::full_name(one.2.pod)).collect::<Vec<_>>().join(", ");
    let first = pods.first().map(|one| one.2.pod);
    if namespace.wrong_owner {
        let lives = match first.map_or(NONE, |pod| home(pod, init)) {
            NONE => "was to have its own".to_owned(),
            home => format!("lives in userns {home}"),
        };
        return format!("of {}, which {lives}", names()).into();
    }
    let addresses = || first.map(facts::address).unwrap_or_default();
    match (&*namespace.kind, owner == init) {
        ("net", false) => addresses().into(),
        ("net", true) => format!("{}  {}", names(), addresses()).into(),
        (_, true) => names().into(),
        _ => "".into(),
    }
}

/// Draws one line; the words carry the sign, the colour only repeats it.
fn draw_row(buf: &mut Buffer, area: Rect, row: &Row, selected: bool, theme: Theme) {
    let style = match row.what {
        _ if row.wrong => theme.bad(),
        What::Userns => theme.heading(),
        What::Pod => theme.strong(),
        What::Namespace | What::Process => theme.plain(),
    };
    let sign = if row.wrong { format!("{WRONG} ") } else { String::new() };
    let note = if row.wrong { theme.bad() } else { theme.dim() };
    let glyphs = theme.glyphs();
    let pointer = if selected { glyphs.pointer } else { " " };
    // Half an inode would pass for a whole one: what is cut is seen to be.
    let branches = row.branches.concat();
    let room = usize::from(area.width).saturating_sub(2 + text::width(&branches));
    let label = text::fit(&format!("{sign}{}  {}", row.label, row.note), room, glyphs.ellipsis);
    let (label, told) = label.split_at(label.floor_char_boundary(sign.len() + row.label.len()));
    let line = Line::from(vec![
        Span::raw(text::left(pointer, 2, "")),
        Span::styled(branches, theme.dim()),
        Span::styled(label.to_owned(), style),
        Span::styled(told.to_owned(), note),
    ]);
    buf.set_line(area.x, area.y, &line, area.width);
    if selected {
        buf.set_style(area, theme.selected());
    }
}

/// The tree without a selection, as much of it as fits.
pub fn glance(buf: &mut Buffer, area: Rect, rows: &[Row], theme: Theme) {
    for (y, row) in (area.y..area.bottom()).zip(rows) {
        draw_row(buf, Rect { y, height: 1, ..area }, row, false, theme);
    }
}

#[derive(Debug, Default)]
pub struct Tree {
    rows: Vec<Row>,
    /// What the rows were built from: the node, the shape of its pods, the width, the rows.
    key: Option<(NodeId, u64, u16, u64)>,
    /// The selected pod that was moved to: lines of no pod can be reached all the same.
    followed: Option<PodKey>,
    at: usize,
    offset: usize,
    area: Rect,
}

impl Tree {
    fn refresh(&mut self, cx: &Context<'_>) {
        let key = (cx.node, cx.model.shape, self.area.width, cx.shared.rows_version);
        if self.key.as_ref() == Some(&key) {
            return;
        }
        let before = self.rows.get(self.at).cloned();
        self.rows = build(cx.own_rows(), self.area.width, cx);
        self.key = Some(key);
        // The same line where it still is, else the pod that is selected elsewhere.
        let same = before.and_then(|before| {
            self.rows.iter().position(|row| row.label == before.label && row.pod == before.pod)
        });
        self.at = same.unwrap_or(self.at).min(self.rows.len().saturating_sub(1));
    }

    /// Moves to the selected pod unless the current line is one of its lines already.
    fn follow_selection(&mut self, cx: &Context<'_>) {
        let Some(selected) = &cx.shared.selected else { return };
        if self.followed.as_ref() == Some(selected) {
            return;
        }
        self.followed = Some(selected.clone());
        if self.rows.get(self.at).is_some_and(|row| row.pod.as_deref() == Some(&**selected)) {
            return;
        }
        let found =
            self.rows.iter().position(|row| row.what == What::Pod && row.pod.as_deref() == Some(&**selected));
        self.at = found.unwrap_or(self.at);
    }

    fn select(&mut self, to: usize, cx: &Context<'_>) -> Vec<Effect> {
        self.at = to;
        let pod = self.rows.get(to).and_then(|row| row.pod.as_deref());
        pod.map(|id| Effect::Select(PodKey::new(cx.node, id))).into_iter().collect()
    }
}

impl Panel for Tree {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Tree".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        self.area = area;
        self.refresh(cx);
        self.follow_selection(cx);
        self.offset = list::scrolled(self.offset, self.at, usize::from(area.height), self.rows.len());
        if self.rows.is_empty() {
            buf.set_stringn(area.x + 2, area.y, "no pods", usize::from(area.width), cx.theme.dim());
        }
        for (y, (index, row)) in (area.y..area.bottom()).zip(self.rows.iter().enumerate().skip(self.offset)) {
            draw_row(buf, Rect { y, height: 1, ..area }, row, index == self.at, cx.theme);
        }
    }

    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>> {
        self.refresh(cx);
        if let Some(effects) = pod_key(key, cx) {
            return Some(effects);
        }
        let to = list::moved(key, self.at, self.rows.len(), usize::from(self.area.height))?;
        Some(self.select(to, cx))
    }

    fn click(&mut self, _column: u16, row: u16, cx: &Context<'_>) -> Vec<Effect> {
        match row.checked_sub(self.area.y).map(|y| self.offset + usize::from(y)) {
            Some(to) if to == self.at && to < self.rows.len() => vec![Effect::Enter],
            Some(to) if to < self.rows.len() => self.select(to, cx),
            _ => Vec::new(),
        }
    }

    fn copy(&self, cx: &Context<'_>) -> Option<Copied> {
        super::pods::copied(cx)
    }

    fn subject(&self, cx: &Context<'_>) -> Option<Subject> {
        super::pods::selected(cx)
    }

    fn hints(&self) -> &'static [Hint] {
        &[
            ("Enter", "containers"),
            ("w", "why"),
            ("e", "next problem"),
            ("/", "filter"),
            ("D", "describe"),
            ("y", "copy its id"),
            ("j k", "move"),
        ]
    }
}
