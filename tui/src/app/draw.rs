//! The layout: status line, tabs or breadcrumb, the body, the footer.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::{App, Over, View};
use crate::fleet::{self, NodeId, PodKey};
use crate::link::Link;
use crate::model::facts;
use crate::panel::pods::Pods;
use crate::panel::{Context, Panel, checks, columns, footer, status, tree};
use crate::text;
use crate::theme::WRONG;

/// Below this nothing useful fits.
const LEAST: (u16, u16) = (40, 8);
/// From this height on the pods leave room for the stream under them.
const STREAM_FROM: u16 = 15;
/// Up to this many pods a frame as text has the tree of each.
const FEW: usize = 6;
/// From this width on the tree of the selected pod stands beside the stream.
const TREE_FROM: u16 = 132;

impl App {
    /// Draws the whole screen.
    pub fn draw(&mut self, buf: &mut Buffer, area: Rect) {
        self.refresh();
        self.dirty = false;
        if area.width < LEAST.0 || area.height < LEAST.1 {
            let words = format!("too small: {}x{}, needs {}x{}", area.width, area.height, LEAST.0, LEAST.1);
            buf.set_stringn(area.x, area.y, words, usize::from(area.width), self.theme.plain());
            return;
        }
        let body = Rect { y: area.y + 3, height: area.height - 4, ..area };
        self.draw_head(buf, area);
        if self.is_filled() {
            self.draw_body(buf, body);
        } else {
            self.draw_waiting(buf, body);
        }
        // Of several nodes the table dims the rows of those that are away; what is about one node is dimmed whole.
        let one = self.nodes.len() == 1 || self.view != View::Pods || !self.over.is_empty();
        if one && self.link().is_stale() {
            buf.set_style(body, self.theme.plain().add_modifier(Modifier::DIM));
        }
        self.draw_footer(buf, Rect { y: area.bottom() - 1, height: 1, ..area });
        if let Some(modal) = &self.modal {
            let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
            modal.draw(buf, area, &self.context());
        }
    }

    /// What every drawing function may look at; the panels themselves stay free to be changed.
    fn context(&self) -> Context<'_> {
        let node = self.focus();
        let of = &self.nodes[node.0];
        Context {
            nodes: &self.nodes,
            node,
            model: &of.model,
            answers: &of.answers,
            shared: &self.shared,
            theme: self.theme,
            tz: &self.tz,
            now_ns: self.now_ns,
        }
    }

    fn draw_head(&mut self, buf: &mut Buffer, area: Rect) {
        let line = |y| Rect { y: area.y + y, height: 1, ..area };
        status::draw(buf, line(0), self.link(), &self.context());
        if self.over.is_empty() {
            self.draw_tabs(buf, line(1));
        } else {
            self.tabs.clear();
            self.draw_breadcrumb(buf, line(1));
        }
        let rule = self.theme.glyphs().rule.repeat(usize::from(area.width));
        buf.set_string(area.x, area.y + 2, rule, self.theme.dim());
        // On the rule, as the tabs leave no room beside them.
        let cx = self.context();
        let right = self.counts(area.width.saturating_sub(6), &cx);
        let width = text::cells(right.width());
        let x = area.right().saturating_sub(width + 4);
        buf.set_string(x, area.y + 2, " ".repeat(usize::from(width) + 2), self.theme.plain());
        buf.set_line(x + 1, area.y + 2, &right, width);
    }

    /// As many names as fit; the active one always has its name.
    fn draw_tabs(&mut self, buf: &mut Buffer, area: Rect) {
        let all: usize = View::ALL.iter().map(|view| view.name().len() + 4).sum();
        let named = all + 2 <= usize::from(area.width);
        let mut x = area.x + 1;
        self.tabs.clear();
        for (index, view) in View::ALL.into_iter().enumerate() {
            // The brackets tell the active one without colour.
            let active = view == self.view;
            let label = match (active, named) {
                (true, _) => format!("[{} {}]", index + 1, view.name()),
                (false, true) => format!("{} {}", index + 1, view.name()),
                (false, false) => (index + 1).to_string(),
            };
            let style = if active { self.theme.heading() } else { self.theme.plain() };
            let width = text::cells(text::width(&label));
            let gap = u16::from(named && !active);
            buf.set_string(x + gap, area.y, label, style);
            self.tabs.push((Rect { x, width: width + 2 * gap, ..area }, view));
            x += width + 2 * gap + u16::from(!named);
        }
    }

    fn draw_breadcrumb(&mut self, buf: &mut Buffer, area: Rect) {
        let cx = self.context();
        let mut line = Line::from(vec![Span::raw(" "), Span::raw(self.view.name())]);
        if cx.several() {
            line.push_span(Span::styled(format!(" {} ", self.theme.glyphs().pointer), self.theme.dim()));
            line.push_span(Span::raw(cx.nodes[cx.node.0].name().to_owned()));
        }
        for Over { panel, .. } in &self.over {
            line.push_span(Span::styled(format!(" {} ", self.theme.glyphs().pointer), self.theme.dim()));
            line.push_span(Span::styled(panel.title(&cx), self.theme.heading()));
        }
        buf.set_line(area.x, area.y, &line, area.width);
        self.breadcrumb = Rect { width: text::cells(line.width()), ..area };
    }

    /// How many pods, and how many of them want a look; or what keeps the daemon away.
    fn counts(&self, room: u16, cx: &Context<'_>) -> Line<'static> {
        // Of several nodes the first line counts those that are away, and what the others have stays here.
        let all_away = self.nodes.iter().all(|node| matches!(node.link, Link::Waiting { .. }));
        let away = match self.link() {
            Link::Waiting { reason, .. } if all_away => Some(reason.clone()),
            _ => None,
        };
        if let Some(reason) = &away {
            let reason = text::fit(reason, usize::from(room), cx.theme.glyphs().ellipsis);
            return Line::styled(reason, cx.theme.bad());
        }
        let (shown, all) = (self.shared.rows.len(), fleet::pods(&self.nodes).count());
        let problems = fleet::pods(&self.nodes).filter(|(_, pod)| facts::is_problem(pod)).count();
        let room = usize::from(room);
        let mut bad = if problems == 0 { String::new() } else { format!("  {WRONG} {problems} to look at") };
        let mut count = text::plural(all, "pod");
        let mut style = cx.theme.dim();
        if !self.shared.pod_filter.is_empty() {
            count = format!("{shown} of {count}");
            style = cx.theme.accent();
            if text::width(&count) + text::width(&bad) + 12 > room {
                bad = if problems == 0 { String::new() } else { format!("  {WRONG} {problems}") };
            }
            // The filter itself gives way last, and shows that it goes on.
            let left = room.saturating_sub(text::width(&count) + text::width(&bad) + 2);
            let filter = format!("/{}", self.shared.pod_filter.text());
            count = format!("{}  {count}", text::fit(&filter, left, cx.theme.glyphs().ellipsis));
        }
        Line::from(vec![Span::styled(count, style), Span::styled(bad, cx.theme.bad())])
    }

    fn draw_waiting(&self, buf: &mut Buffer, area: Rect) {
        let mut words = match self.link() {
            Link::Connecting => vec!["connecting to the daemon".to_owned()],
            Link::Waiting { reason, retry_at_ns, .. } => vec![
                format!("{WRONG} {reason}"),
                format!(
                    "trying again in {}",
                    text::age(retry_at_ns.saturating_sub(self.now_ns) + 999_999_999)
                ),
                "Is `sandboxd serve` running? Another socket: --endpoint PATH".to_owned(),
            ],
            Link::Live | Link::Replay | Link::Ended => vec!["waiting for the snapshot".to_owned()],
        };
        if self.nodes.len() > 1 {
            words.push(format!(
                "none of {} answered yet: N shows each",
                text::plural(self.nodes.len(), "node")
            ));
        }
        words.truncate(usize::from(area.height));
        let mut y = area.y + 1;
        for word in words {
            for part in text::wrap(&word, usize::from(area.width).saturating_sub(4)) {
                if y < area.bottom() {
                    buf.set_string(area.x + 2, y, part, self.theme.plain());
                }
                y += 1;
            }
        }
    }

    fn draw_body(&mut self, buf: &mut Buffer, area: Rect) {
        if !self.over.is_empty() || self.view != View::Pods {
            self.with_panel(|panel, cx| panel.draw(buf, area, cx));
            return;
        }
        // What does not fit is named rather than silently left out.
        let wanted = text::cells(Pods::height(&self.context()));
        let (table, rest) = if area.height < STREAM_FROM {
            (Rect { height: area.height - 1, ..area }, None)
        } else {
            // The stream gets what the table leaves, and never less than six lines.
            let table = wanted.min(area.height - area.height.min(28) / 3).max(4);
            let rest = Rect { y: area.y + table + 1, height: area.height - table - 1, ..area };
            (Rect { height: table, ..area }, Some(rest))
        };
        self.with_panel(|panel, cx| panel.draw(buf, table, cx));
        match rest {
            Some(rest) => self.draw_lower(buf, rest),
            None => self.draw_not_shown(buf, Rect { y: area.bottom() - 1, height: 1, ..area }),
        }
    }

    fn draw_lower(&self, buf: &mut Buffer, area: Rect) {
        let cx = self.context();
        let section = |buf: &mut Buffer, area: Rect, words: &str| {
            let rule = cx.theme.glyphs().rule;
            let tail = usize::from(area.width).saturating_sub(text::width(words) + 4);
            let line = Line::from(vec![
                Span::styled(rule.repeat(2), cx.theme.dim()),
                Span::styled(format!(" {words} "), cx.theme.plain()),
                Span::styled(rule.repeat(tail), cx.theme.dim()),
            ]);
            buf.set_line(area.x, area.y - 1, &line, area.width);
        };
        let selected = self.shared.selected.as_ref();
        let pod = cx.model.pod(selected.map(|key| &*key.id));
        let stream = match (area.width >= TREE_FROM, pod) {
            (true, Some(pod)) => {
                let left = Rect { width: area.width * 9 / 20, ..area };
                section(buf, left, &format!("Owners of {}", facts::full_name(pod)));
                tree::glance(buf, left, &tree::build(selected.into_iter(), left.width, &cx), cx.theme);
                Rect { x: area.x + left.width + 1, width: area.width - left.width - 1, ..area }
            }
            _ => area,
        };
        let of = if cx.several() {
            format!("Capability checks of {}", cx.nodes[cx.node.0].name())
        } else {
            "Capability checks".to_owned()
        };
        section(buf, stream, &of);
        checks::tail(buf, stream, &cx);
    }

    fn draw_not_shown(&self, buf: &mut Buffer, area: Rect) {
        let (chosen, several) = (&self.shared.columns, self.nodes.len() > 1);
        let placed = columns::layout(usize::from(area.width), 0, chosen, several);
        let hidden = columns::hidden(&placed, chosen, several).len();
        let words = format!("not shown: {}, checks (3)", text::plural(hidden, "column"));
        let words = text::fit(&words, usize::from(area.width) - 1, self.theme.glyphs().ellipsis);
        buf.set_string(area.x + 1, area.y, words, self.theme.dim());
    }

    fn draw_footer(&mut self, buf: &mut Buffer, area: Rect) {
        let hints = self.with_panel(|panel, _| panel.hints());
        let cx = self.context();
        let mut buttons = Vec::new();
        match (&self.prompt, &self.notice) {
            (Some(prompt), _) => footer::prompt(buf, area, prompt, &cx),
            (None, Some(notice)) => footer::notice(buf, area, notice, &cx),
            (None, None) => buttons = footer::hints(buf, area, hints, &cx),
        }
        self.buttons = buttons;
    }

    /// Draws the state as one frame of text: everything, as high as it needs, without keys.
    pub fn report(&mut self, width: u16) -> Buffer {
        self.refresh();
        let cx = self.context();
        // A node full of healthy pods would drown what matters: then only those that want a look.
        let few = self.shared.rows.len() <= FEW;
        let tree: Vec<_> = (0..self.nodes.len())
            .map(|index| cx.on(NodeId(index)))
            .flat_map(|on| {
                let wrong = |key: &&PodKey| on.pod(key).is_some_and(facts::is_problem);
                tree::build(on.own_rows().filter(|key| few || wrong(key)), width, &on)
            })
            .collect();
        let degradations: Vec<_> = self
            .nodes
            .iter()
            .flat_map(|node| {
                let all = node.model.node.degradations.iter().chain(&node.model.observer.degradations);
                let on = if cx.several() { format!("{}: ", node.name()) } else { String::new() };
                all.map(move |one| format!("! {on}{}: {}", one.name, one.message))
            })
            .flat_map(|words| text::wrap(&words, usize::from(width) - 1))
            .collect();
        let pods = text::cells(Pods::height(&cx));
        let stream = text::cells(cx.model.checks.len().clamp(1, 10) + 1);
        let tree_height = if tree.is_empty() { 0 } else { text::cells(tree.len() + 2) };
        let degraded_height = text::cells(degradations.len());
        let height = pods.saturating_add(tree_height).saturating_add(stream + degraded_height + 5);
        let area = Rect::new(0, 0, width, height);
        let mut buf = Buffer::empty(area);
        status::draw(&mut buf, Rect { height: 1, ..area }, self.link(), &cx);
        let mut y = 1;
        for one in &degradations {
            buf.set_string(1, y, one, cx.theme.warn());
            y += 1;
        }
        let right = self.counts(width, &cx);
        let heading = |buf: &mut Buffer, y: u16, words: &str| {
            let tail = usize::from(width).saturating_sub(text::width(words) + 4);
            let rule = cx.theme.glyphs().rule;
            buf.set_string(0, y, format!("{} {words} {}", rule.repeat(2), rule.repeat(tail)), cx.theme.dim());
        };
        heading(&mut buf, y, &right.to_string());
        if !tree.is_empty() {
            heading(&mut buf, y + 1 + pods, "Ownership");
            tree::glance(&mut buf, Rect::new(0, y + 2 + pods, width, tree_height - 1), &tree, cx.theme);
        }
        let checks_at = y + 1 + pods + tree_height.saturating_sub(1);
        heading(&mut buf, checks_at, "Capability checks");
        checks::tail(&mut buf, Rect::new(0, checks_at + 1, width, stream), &cx);
        let table = Rect::new(0, y + 1, width, pods);
        self.at_node = self.focus();
        self.shared.selected = None;
        let node = self.focus();
        let of = &self.nodes[node.0];
        let cx = Context {
            nodes: &self.nodes,
            node,
            model: &of.model,
            answers: &of.answers,
            shared: &self.shared,
            theme: self.theme,
            tz: &self.tz,
            now_ns: self.now_ns,
        };
        self.pods.draw(&mut buf, table, &cx);
        buf
    }
}
