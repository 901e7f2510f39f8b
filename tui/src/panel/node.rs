//! The node, its daemon, the observer, and every step down from the best, with its reason.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::pager::{Pager, labelled};
use super::{Context, Effect, Hint, Panel, status};
use crate::model::facts;
use crate::text;
use crate::theme::WRONG;

#[derive(Debug, Default)]
pub struct NodeDetail {
    pager: Pager,
}

const INDENT: usize = 12;

impl Panel for NodeDetail {
    fn title(&self, _cx: &Context<'_>) -> String {
        "Node".to_owned()
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let (node, observer) = (&cx.model.node, &cx.model.observer);
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
        let counts = format!(
            "{} produced = {} seen + {} lost; {} allowed, {} denied",
            text::grouped(observer.produced),
            text::grouped(observer.seen),
            text::grouped(observer.lost),
            text::grouped(observer.allowed),
            text::grouped(observer.denied)
        );
        let (observer_state, _) = status::observer(cx);
        let mut lines = Vec::new();
        for (label, value) in [
            ("Node", node.name.clone()),
            ("Kernel", format!("{}, cgroup {}", node.kernel, node.cgroup)),
            ("sandboxd", format!("{}{up}", node.sandboxd_version)),
            ("Network", network),
            ("Host's own", namespaces),
            ("Observer", format!("{observer_state}  {}", observer.message)),
            ("Checks", counts),
        ] {
            labelled(&mut lines, label, value.trim(), area.width, INDENT, cx.theme);
        }
        lines.push(Line::default());
        let degradations: Vec<_> = node.degradations.iter().chain(&observer.degradations).collect();
        if degradations.is_empty() {
            lines.push(Line::styled(" nothing degraded", cx.theme.dim()));
        } else {
            lines.push(Line::styled(" DEGRADED", cx.theme.heading()));
        }
        for one in degradations {
            lines.push(Line::styled(format!(" ! {}", one.name), cx.theme.warn()));
            labelled(&mut lines, "", &one.message, area.width, 2, cx.theme);
        }
        self.pager.draw(buf, area, &lines, cx.theme);
    }

    fn handle_key(&mut self, key: KeyEvent, _cx: &Context<'_>) -> Option<Vec<Effect>> {
        // Open already: once is enough.
        (key.code == KeyCode::Char('i') || self.pager.handle_key(key)).then(Vec::new)
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("j k", "scroll")]
    }
}
