//! Keys about the selected pod or container: its log, a command in it, stop, remove.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use sandboxd_api::console::{Container, container};

use super::{App, Command};
use crate::actions::{self, Answered, Subject, Verb};
use crate::exec::{self, Exec};
use crate::feed::Request;
use crate::feed::log::Follow;
use crate::fleet::NodeId;
use crate::model::facts;
use crate::model::log::Log;
use crate::panel::log::LogView;
use crate::panel::modal::Modal;

/// The command that `e` runs.
const SHELL: &str = "/bin/sh";
/// Lines of a log that are read at first.
const TAIL: u32 = 2_000;

impl App {
    /// A key that no panel took.
    pub(super) fn subject_key(&mut self, key: KeyEvent) -> Vec<Command> {
        let subject = self.with_panel(|panel, cx| panel.subject(cx));
        let Some(subject) = subject.filter(|_| !key.modifiers.contains(KeyModifiers::CONTROL)) else {
            return Vec::new();
        };
        let node = self.focus();
        let mut commands = Vec::new();
        match key.code {
            KeyCode::Char('l') => self.open_log(node, &subject),
            KeyCode::Char('x') => self.ask(node, Verb::Stop, subject),
            KeyCode::Char('X') => self.ask(node, Verb::Remove, subject),
            KeyCode::Char(key @ ('e' | 'E')) => {
                if let Some((container_id, object)) = self.exec_in(node, &subject) {
                    if key == 'e' {
                        let command = vec![SHELL.to_owned()];
                        commands.push(Command::Exec(node, Exec { container_id, command, object }));
                    } else {
                        let typed = SHELL.to_owned();
                        self.modal = Some(Modal::Command { node, container_id, object, typed });
                    }
                }
            }
            _ => {}
        }
        commands
    }

    /// The containers of a pod, or the one that is meant; the running ones first.
    fn containers(&self, node: NodeId, subject: &Subject) -> Vec<&Container> {
        let model = &self.nodes[node.0].model;
        let mut containers: Vec<_> = match subject {
            Subject::Container(id) => model.containers.get(id).into_iter().collect(),
            Subject::Pod(id) => model.containers.values().filter(|one| one.pod_id == *id).collect(),
        };
        containers.sort_by_key(|one| {
            (one.state() != container::State::Running, one.created_at_ns, one.name.clone(), one.id.clone())
        });
        containers
    }

    fn open_log(&mut self, node: NodeId, subject: &Subject) {
        match self.containers(node, subject).first().map(|one| one.id.clone()) {
            Some(id) => self.open(Box::new(LogView::new(&id))),
            None => self.notice = Some("no container here, so no log".to_owned()),
        }
    }

    fn ask(&mut self, node: NodeId, verb: Verb, subject: Subject) {
        if let Some(why) = self.refusal(node) {
            self.notice = Some(why);
            return;
        }
        match actions::question(verb, subject, &self.nodes[node.0].model) {
            Some(question) => self.modal = Some(Modal::Question(node, question)),
            None => self.notice = Some("it is gone".to_owned()),
        }
    }

    /// The running container to run something in, and what it is called; else says why there is none.
    fn exec_in(&mut self, node: NodeId, subject: &Subject) -> Option<(String, String)> {
        if let Some(why) = self.refusal(node) {
            self.notice = Some(why);
            return None;
        }
        let model = &self.nodes[node.0].model;
        let found = self.containers(node, subject).into_iter().next();
        let running = found.filter(|one| one.state() == container::State::Running);
        let found = running.map(|one| {
            let pod = model.pod(Some(&one.pod_id)).map(facts::full_name).unwrap_or_default();
            (one.id.clone(), format!("container {} of {pod}", one.name))
        });
        if found.is_none() {
            self.notice = Some("no container is running here".to_owned());
        }
        found
    }

    /// A key while a question or a command line is open.
    pub(super) fn modal_key(&mut self, key: KeyEvent) -> Vec<Command> {
        let Some(mut modal) = self.modal.take() else { return Vec::new() };
        match &mut modal {
            Modal::Question(node, question) => match question.key(key.code) {
                Answered::Open => self.modal = Some(modal),
                Answered::No => self.notice = Some("nothing was changed".to_owned()),
                Answered::Yes => {
                    self.notice = Some(question.action.under_way());
                    return vec![Command::Ask(*node, Request::Act(question.action.clone()))];
                }
            },
            Modal::Command { node, container_id, object, typed } => {
                match key.code {
                    KeyCode::Esc => return Vec::new(),
                    KeyCode::Enter => {
                        let command = exec::words(typed);
                        if command.is_empty() {
                            return Vec::new();
                        }
                        let (container_id, object) = (container_id.clone(), object.clone());
                        return vec![Command::Exec(*node, Exec { container_id, command, object })];
                    }
                    KeyCode::Backspace => drop(typed.pop()),
                    KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => typed.clear(),
                    KeyCode::Char(c) if !key.modifiers.contains(KeyModifiers::CONTROL) => typed.push(c),
                    _ => {}
                }
                self.modal = Some(modal);
            }
        }
        Vec::new()
    }

    /// Follows the log that is on the screen, and no other.
    pub(super) fn follow_log(&mut self) -> Vec<Command> {
        let wanted =
            self.over.iter().rev().find_map(|over| {
                over.panel.follows().map(|container_id| (over.node, container_id.to_owned()))
            });
        if wanted == self.following {
            return Vec::new();
        }
        let mut commands = Vec::new();
        if let Some((node, _)) = self.following.take()
            && wanted.as_ref().map(|(node, _)| *node) != Some(node)
        {
            commands.push(Command::Ask(node, Request::Unfollow));
        }
        let Some((id, container_id)) = wanted else { return commands };
        self.following = Some((id, container_id.clone()));
        let node = &mut self.nodes[id.0];
        let log = node.answers.log.get_or_insert_with(|| Log::new(&container_id));
        if log.container_id != container_id {
            *log = Log::new(&container_id);
        }
        let since_ns = log.resume();
        let tail_lines = if since_ns == 0 { TAIL } else { 0 };
        commands.push(Command::Ask(id, Request::Follow(Follow { container_id, tail_lines, since_ns })));
        commands
    }

    /// Whether the request was taken by the node's feed: a log that was not is asked for again with the next event.
    pub fn not_asked(&mut self, node: NodeId, request: &Request) {
        match request {
            Request::Follow(_) => self.following = self.following.take().filter(|(of, _)| *of != node),
            Request::Act(action) => {
                let answer = Err("the connection is too busy; nothing was asked".to_owned());
                self.notice = Some(action.outcome(&answer));
                self.dirty = true;
            }
            _ => {}
        }
    }

    /// Says what just happened outside.
    pub fn tell(&mut self, words: String) {
        self.notice = Some(words);
        self.dirty = true;
    }
}
