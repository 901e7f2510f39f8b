//! What keys and the mouse do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::{App, Command, Over, View};
use crate::fleet::NodeId;
use crate::model::filter::{Filter, Kind};
use crate::panel::columns::Chosen;
use crate::panel::footer::Prompt;
use crate::panel::help::Help;
use crate::panel::nodes::Nodes;
use crate::panel::{Copied, Effect, Panel};

impl App {
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<Command> {
        self.dirty = true;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return vec![Command::Quit];
        }
        if self.modal.is_some() {
            self.notice = None;
            return self.modal_key(key);
        }
        if self.prompt.is_some() {
            self.prompt_key(key);
            return Vec::new();
        }
        if self.with_panel(|panel, _| panel.captures()) {
            self.notice = None;
            let effects = self.with_panel(|panel, cx| panel.handle_key(key, cx)).unwrap_or_default();
            return self.carry_out(effects);
        }
        let key = self.shared.keys.translate(key);
        self.manual_key(key)
    }

    /// A key as the manual names it.
    pub(super) fn manual_key(&mut self, key: KeyEvent) -> Vec<Command> {
        self.notice = None;
        match key.code {
            KeyCode::Char('q') => return vec![Command::Quit],
            KeyCode::Char(digit @ '1'..='8') => {
                let index = usize::from(digit as u8 - b'1');
                self.show(View::ALL[index]);
            }
            KeyCode::Tab | KeyCode::BackTab => {
                let at = View::ALL.iter().position(|view| *view == self.view).unwrap_or(0);
                let step = if key.code == KeyCode::Tab { 1 } else { View::ALL.len() - 1 };
                self.show(View::ALL[(at + step) % View::ALL.len()]);
            }
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            KeyCode::Char('/') if self.over.is_empty() => self.open_prompt(),
            _ => {
                let effects = self.with_panel(|panel, cx| panel.handle_key(key, cx));
                match (effects, key.code) {
                    (Some(effects), _) => return self.carry_out(effects),
                    (None, KeyCode::Char('?')) => {
                        let help = self.with_panel(|panel, cx| Help::new(panel.title(cx), panel.hints()));
                        self.open(Box::new(help));
                    }
                    (None, KeyCode::Char('i')) => self.show(View::Node),
                    (None, KeyCode::Char('y')) => return self.copy(),
                    (None, KeyCode::Char('N')) => self.open(Box::new(Nodes::at(self.focus()))),
                    (None, _) => return self.subject_key(key),
                }
            }
        }
        Vec::new()
    }

    /// Opens a panel about the node that is looked at.
    pub(super) fn open(&mut self, panel: Box<dyn Panel>) {
        let node = self.focus();
        self.over.push(Over { node, panel });
    }

    /// Puts what is selected on the clipboard.
    pub(super) fn copy(&mut self) -> Vec<Command> {
        match self.with_panel(|panel, cx| panel.copy(cx)) {
            None => {
                self.notice = Some("nothing to copy here".to_owned());
                Vec::new()
            }
            Some(Copied { what, text }) => {
                self.notice = Some(format!("copied {what}, {} characters", text.chars().count()));
                vec![Command::Copy(text)]
            }
        }
    }

    pub(super) fn show(&mut self, view: View) {
        self.over.clear();
        self.view = view;
    }

    /// Closes the topmost panel; on a view, clears its filter.
    pub(super) fn back(&mut self) {
        if self.over.pop().is_none() {
            *self.filter() = Filter::default();
        }
    }

    pub(super) fn filter(&mut self) -> &mut Filter {
        match self.view.filters() {
            Kind::Pods => &mut self.shared.pod_filter,
            Kind::Checks => &mut self.shared.check_filter,
            Kind::Events => &mut self.shared.event_filter,
            Kind::Spaces => &mut self.shared.space_filter,
        }
    }

    pub(super) fn open_prompt(&mut self) {
        let before = self.filter().text().to_owned();
        self.prompt = Some(Prompt { text: before.clone(), error: None, before });
    }

    pub(super) fn prompt_key(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let Some(mut prompt) = self.prompt.take() else { return };
        let mut open = true;
        match key.code {
            KeyCode::Enter if prompt.error.is_none() => return,
            KeyCode::Esc => {
                prompt.text = prompt.before.clone();
                open = false;
            }
            KeyCode::Backspace => open = prompt.text.pop().is_some(),
            KeyCode::Char('u') if control => prompt.text.clear(),
            KeyCode::Char(c) if !c.is_control() && !control => prompt.text.push(c),
            _ => {}
        }
        // The rows follow while it is typed; a filter that does not parse yet leaves them as they are.
        let parsed = Filter::parse(&prompt.text, self.view.filters());
        prompt.error = parsed.as_ref().err().map(ToString::to_string);
        if let Ok(filter) = parsed {
            *self.filter() = filter;
        }
        self.prompt = open.then_some(prompt);
    }

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) -> Vec<Command> {
        let mut commands = Vec::new();
        for effect in effects {
            match effect {
                Effect::Select(key) => {
                    self.at_node = key.node;
                    self.shared.selected = Some(key);
                }
                Effect::Node(node) => self.show_node(node),
                Effect::Sort(sort) => self.shared.sort = sort,
                Effect::Open(panel) => self.open(panel),
                Effect::ReadAgain => {
                    let node = self.focus();
                    for want in self.with_panel(|panel, cx| panel.wants(cx)) {
                        self.nodes[node.0].answers.readings.expire(&want.query);
                    }
                }
                Effect::Ask(request) => commands.push(Command::Ask(self.focus(), request)),
                Effect::Notice(words) => self.notice = Some(words),
                Effect::Checks(filter) => {
                    self.show(View::Checks);
                    self.checks.follow();
                    self.shared.check_filter = Filter::parse(&filter, Kind::Checks).unwrap_or_default();
                }
                Effect::Enter => {
                    let enter = KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE);
                    let effects = self.with_panel(|panel, cx| panel.handle_key(enter, cx));
                    commands.extend(self.carry_out(effects.unwrap_or_default()));
                }
                Effect::Columns(columns) => {
                    self.shared.columns = Chosen::only(columns.clone());
                    commands.push(Command::Remember(columns));
                }
            }
        }
        commands
    }

    /// The pods of one node, which is looked at also where it has none.
    pub(super) fn show_node(&mut self, node: NodeId) {
        self.show(View::Pods);
        let filter = format!("node:{}", self.nodes[node.0].name().replace(char::is_whitespace, ""));
        self.shared.pod_filter = Filter::parse(&filter, Kind::Pods).unwrap_or_default();
        self.at_node = node;
        self.shared.selected = None;
    }

    pub(super) fn mouse(&mut self, mouse: MouseEvent) -> Vec<Command> {
        // A question is answered by keys alone.
        if self.modal.is_some() {
            return Vec::new();
        }
        let scroll = match mouse.kind {
            MouseEventKind::ScrollDown => KeyCode::Down,
            MouseEventKind::ScrollUp => KeyCode::Up,
            MouseEventKind::Down(MouseButton::Left) => {
                self.dirty = true;
                let hit = self.tabs.iter().find(|(area, _)| area.contains((mouse.column, mouse.row).into()));
                if let Some((_, view)) = hit {
                    self.show(*view);
                    return Vec::new();
                }
                let at = (mouse.column, mouse.row).into();
                if !self.over.is_empty() && self.breadcrumb.contains(at) {
                    self.over.pop();
                    return Vec::new();
                }
                if let Some((_, key)) = self.buttons.iter().find(|(area, _)| area.contains(at)) {
                    // What is on the footer is the manual's key already.
                    return self.manual_key(KeyEvent::new(KeyCode::Char(*key), KeyModifiers::NONE));
                }
                let effects = self.with_panel(|panel, cx| panel.click(mouse.column, mouse.row, cx));
                return self.carry_out(effects);
            }
            _ => return Vec::new(),
        };
        self.dirty = true;
        let key = KeyEvent::new(scroll, KeyModifiers::NONE);
        let mut commands = Vec::new();
        for _ in 0..3 {
            let effects = self.with_panel(|panel, cx| panel.handle_key(key, cx)).unwrap_or_default();
            commands.extend(self.carry_out(effects));
        }
        commands
    }
}
