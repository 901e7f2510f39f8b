//! Help for the panel it was opened from, then what holds everywhere.

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::pager::{Pager, labelled};
use super::{Context, Effect, Hint, Panel};
use crate::model::filter::{CHECK_FIELDS, EVENT_FIELDS, POD_FIELDS, SPACE_FIELDS};
use crate::theme::WRONG;

/// Keys that work in every panel.
pub const GLOBAL: &[Hint] = &[
    ("1 to 4", "pods, ownership tree of the pods, capability checks, flow; Tab goes round"),
    ("5 to 8", "capabilities, namespaces of the whole node, events, node (also i)"),
    ("l", "the log of the selected pod or container"),
    ("x X", "stop it, remove it; asks first (only with --allow-actions)"),
    ("e E", "in a container: a shell, a command (only with --allow-actions)"),
    ("N", "the nodes, where there are several"),
    ("/", "filter; Esc clears it"),
    ("Esc", "back"),
    ("y", "copy what is selected to your terminal's clipboard, over SSH too (OSC 52)"),
    ("?", "this help"),
    ("g G", "first, last; PgUp PgDn Ctrl-u Ctrl-d by pages"),
    (
        "mouse",
        "click a row, again to open it, a heading, a tab or a hint; wheel scrolls; Shift selects text (off: --no-mouse)",
    ),
    ("q", "quit"),
];

#[derive(Debug)]
pub struct Help {
    of: String,
    hints: &'static [Hint],
    pager: Pager,
}

impl Help {
    pub fn new(of: String, hints: &'static [Hint]) -> Self {
        Self { of, hints, pager: Pager::default() }
    }

    fn lines(&self, width: u16, cx: &Context<'_>) -> Vec<Line<'static>> {
        let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
        let mut lines = Vec::new();
        let heading = |lines: &mut Vec<Line<'static>>, words: String| {
            if !lines.is_empty() {
                lines.push(Line::default());
            }
            lines.push(Line::from(Span::styled(format!(" {words}"), theme.heading())));
        };
        heading(&mut lines, self.of.to_uppercase());
        let keys = &cx.shared.keys;
        for (key, does) in self.hints {
            labelled(&mut lines, &keys.label(key), does, width, 10, theme);
        }
        heading(&mut lines, "EVERYWHERE".to_owned());
        for (key, does) in GLOBAL {
            labelled(&mut lines, &keys.label(key), does, width, 10, theme);
        }
        heading(&mut lines, "FILTER: WORDS THAT ALL MUST MATCH".to_owned());
        for (example, means) in [
            ("web", "contains web"),
            ("/^kube-.*x$/", "matches a regular expression"),
            ("!text", "not"),
            ("owner:init", "network namespace owned by init"),
            ("verdict:denied", "something was denied"),
        ] {
            labelled(&mut lines, example, means, width, 16, theme);
        }
        labelled(&mut lines, "fields, pods", &POD_FIELDS.join(" "), width, 16, theme);
        labelled(&mut lines, "fields, checks", &CHECK_FIELDS.join(" "), width, 16, theme);
        labelled(&mut lines, "fields, events", &EVENT_FIELDS.join(" "), width, 16, theme);
        labelled(&mut lines, "fields, spaces", &SPACE_FIELDS.join(" "), width, 16, theme);
        heading(&mut lines, "SIGNS".to_owned());
        for (sign, means) in [
            (format!("{WRONG} init"), "the pod's network namespace belongs to the host's user namespace"),
            (format!("{} ready", glyphs.ready), "the pod is up"),
            (format!("{} creating", glyphs.creating), "on its way up or down"),
            (format!("{} failed", glyphs.failed), "failed: w says why"),
            ("own / host ro".to_owned(), "sysfs: of the pod's netns / the host's, read-only"),
            (format!("{WRONG} net … LEAKED"), "a namespace without a process that nothing should keep alive"),
            (format!("{WRONG} 5 lost"), "checks that the kernel could not hand over: the picture has gaps"),
            (format!("{WRONG} stale 5s"), "the daemon is gone: what is shown is that old"),
        ] {
            let sign = sign.replace('…', glyphs.ellipsis);
            labelled(&mut lines, &sign, means, width, 16, theme);
        }
        lines
    }
}

impl Panel for Help {
    fn title(&self, _cx: &Context<'_>) -> String {
        format!("Help: {}", self.of)
    }

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>) {
        let lines = self.lines(area.width, cx);
        self.pager.draw(buf, area, &lines, cx.theme);
    }

    fn handle_key(&mut self, key: KeyEvent, _cx: &Context<'_>) -> Option<Vec<Effect>> {
        // Open already: once is enough.
        (key.code == KeyCode::Char('?') || self.pager.handle_key(key)).then(Vec::new)
    }

    fn hints(&self) -> &'static [Hint] {
        &[("Esc", "back"), ("j k", "scroll")]
    }
}
