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

use std::collections::BTreeMap;

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
    branches: String,
    what: What,
    label: String,
    note: String,
    wrong: bool,
    /// The pod it belongs to, so that its keys work here too.
    pub pod: Option<String>,
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

/// From this width on four namespaces stand on one line.
const WIDE: u16 = 70;

/// What one user namespace owns and who lives in it.
#[derive(Debug, Default)]
struct Owned<'a> {
    /// By rank of the kind and inode: the namespace and its pods.
    namespaces: BTreeMap<(usize, u64), (&'a Namespace, Vec<&'a Pod>)>,
    pods: Vec<&'a Pod>,
}

/// The lines of the tree for these pods, in their order.
pub fn build<'a>(ids: impl Iterator<Item = &'a PodKey>, width: u16, cx: &'a Context<'_>) -> Vec<Row> {
    let wide = width >= WIDE;
    let init = cx.model.node.init_userns;
    let mut order = Vec::new();
    let mut owners: BTreeMap<u64, Owned<'_>> = BTreeMap::new();
    for pod in ids.filter_map(|id| cx.model.pod(Some(id))) {
        let home = home(pod, init);
        for namespace in pod.namespaces.iter().filter(|namespace| namespace.kind != "user" && !namespace.host)
        {
            let owner = if namespace.owner_inode == 0 { home } else { namespace.owner_inode };
            let rank = KINDS.iter().position(|kind| *kind == namespace.kind).unwrap_or(KINDS.len());
            order.push(owner);
            let owned = owners.entry(owner).or_default();
            let shared = owned.namespaces.entry((rank, namespace.inode)).or_insert((namespace, Vec::new()));
            shared.1.push(pod);
        }
        order.push(home);
        owners.entry(home).or_default().pods.push(pod);
    }
    // The host's own first, then as the pods come.
    let mut rows = Vec::new();
    let mut drawn = std::collections::BTreeSet::new();
    for inode in std::iter::once(init).chain(order) {
        if let Some(owned) = owners.get(&inode).filter(|_| drawn.insert(inode)) {
            userns(&mut rows, inode, owned, wide, cx);
        }
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

fn userns(rows: &mut Vec<Row>, inode: u64, owned: &Owned<'_>, wide: bool, cx: &Context<'_>) {
    let glyphs = cx.theme.glyphs();
    let init = cx.model.node.init_userns;
    let first = owned.pods.first();
    let note = match first.map(|pod| pod.uid_map.as_slice()) {
        _ if inode == init => "init, the host's".to_owned(),
        _ if inode == NONE => "of pods that were to have one of their own".to_owned(),
        Some([range, ..]) => {
            let to = glyphs.arrow;
            format!(
                "uid {} {to} {}, {} ids",
                range.container_id,
                range.host_id,
                text::grouped(range.length.into())
            )
        }
        _ => "of no pod shown here".to_owned(),
    };
    let row = |branches: &str, what, label: String, note: String, wrong, pod: Option<&Pod>| Row {
        branches: branches.to_owned(),
        what,
        label,
        note,
        wrong,
        pod: pod.map(|pod| pod.id.clone()),
    };
    let label = format!("userns {}", facts::inode_text(inode, glyphs.none));
    let owner = first.filter(|_| inode != init).copied();
    rows.push(row("", What::Userns, label, note, false, owner));

    let mut children = Vec::new();
    // What should be owned here and is not, and what is owned here and should not be, come first.
    for pod in &owned.pods {
        for namespace in pod.namespaces.iter().filter(|one| one.wrong_owner && one.owner_inode != inode) {
            let by = owner_name(namespace, init);
            let whose = if inode == NONE { "the pod's own" } else { "this userns" };
            let note = format!("owned by {by}, not by {whose}");
            children.push(row("", What::Namespace, label_of(namespace), note, true, Some(pod)));
        }
    }
    for wrong in [true, false] {
        for (namespace, pods) in owned.namespaces.values().filter(|one| one.0.wrong_owner == wrong) {
            let pod = pods.first().copied();
            let note = namespace_note(namespace, pods, inode, init);
            let label = label_of(namespace);
            let quiet = |row: &Row| !row.wrong && !row.label.starts_with("net ") && row.note == note;
            match children.last_mut() {
                // The quiet ones of one pod share a line.
                Some(before) if wide && namespace.kind != "net" && quiet(before) => {
                    before.label += &format!("  {label}");
                }
                _ => children.push(row("", What::Namespace, label, note, wrong, pod)),
            }
        }
    }
    let count = children.len() + owned.pods.len();
    for (index, mut child) in children.into_iter().enumerate() {
        child.branches = if index + 1 == count { glyphs.last } else { glyphs.branch }.to_owned();
        rows.push(child);
    }
    for (index, pod) in owned.pods.iter().enumerate() {
        let last = index + 1 == owned.pods.len();
        let branch = if last { glyphs.last } else { glyphs.branch };
        let note = columns::state(pod, cx).0;
        rows.push(row(branch, What::Pod, facts::full_name(pod), note, false, Some(pod)));
        let stem = if last { "   " } else { glyphs.pipe };
        for (index, process) in pod.processes.iter().enumerate() {
            let branch = if index + 1 == pod.processes.len() { glyphs.last } else { glyphs.branch };
            let label = format!("{} {}", process.pid, process.comm);
            let note = process.role.clone();
            rows.push(row(&format!("{stem}{branch}"), What::Process, label, note, false, Some(pod)));
        }
    }
}

fn label_of(namespace: &Namespace) -> String {
    format!("{} {}", namespace.kind, facts::inode_text(namespace.inode, "?"))
}

fn owner_name(namespace: &Namespace, init: u64) -> String {
    match namespace.owner_inode {
        0 => facts::owner_word(namespace).to_owned(),
        inode if inode == init => "init".to_owned(),
        inode => format!("userns {inode}"),
    }
}

fn namespace_note(namespace: &Namespace, pods: &[&Pod], owner: u64, init: u64) -> String {
    let names: Vec<_> = pods.iter().map(|pod| facts::full_name(pod)).collect();
    if namespace.wrong_owner {
        let lives = match pods.first().map_or(NONE, |pod| home(pod, init)) {
            NONE => "was to have its own".to_owned(),
            home => format!("lives in userns {home}"),
        };
        return format!("of {}, which {lives}", names.join(", "));
    }
    let addresses = || pods.first().map(|pod| facts::address(pod)).unwrap_or_default();
    match (&*namespace.kind, owner == init) {
        ("net", false) => addresses(),
        ("net", true) => format!("{}  {}", names.join(", "), addresses()),
        (_, true) => names.join(", "),
        _ => String::new(),
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
    let room = usize::from(area.width).saturating_sub(2 + text::width(&row.branches));
    let label = text::fit(&format!("{sign}{}  {}", row.label, row.note), room, glyphs.ellipsis);
    let (label, told) = label.split_at(label.floor_char_boundary(sign.len() + row.label.len()));
    let line = Line::from(vec![
        Span::raw(text::left(pointer, 2, "")),
        Span::styled(row.branches.clone(), theme.dim()),
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
