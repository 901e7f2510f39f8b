//! What changes something: stop and remove. Off unless `--allow-actions`; then each asks first and names what it
//! is about, and the daemon has the last word.
//!
//! ```text
//!  key ──▶ refused (read-only, the daemon lets us not)
//!   └────▶ Question ── y, or the name typed ──▶ Request::Act ──▶ daemon ──▶ done, or its words
//!             └────── anything else ──▶ nothing happened
//! ```

use sandboxd_api::console::{Access, Pod, container, pod};

use crate::model::{Model, facts};

/// What a key is about: the selected pod or container, by id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    Pod(String),
    Container(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Stop,
    Remove,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Remove => "remove",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Stop => "stopped",
            Self::Remove => "removed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Action {
    pub verb: Verb,
    pub subject: Subject,
    /// What the subject is called, for the question and the result: "pod default/web".
    pub object: String,
}

impl Action {
    pub fn under_way(&self) -> String {
        format!("asked the daemon to {} {}", self.verb.word(), self.object)
    }

    /// What came of it, in words.
    pub fn outcome(&self, answer: &Result<(), String>) -> String {
        match answer {
            Ok(()) => format!("{} {}", self.verb.done(), self.object),
            Err(error) => {
                format!("{} cannot {} {}: {error}", crate::theme::WRONG, self.verb.word(), self.object)
            }
        }
    }
}

/// How a question is answered with yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// By the key y.
    Key,
    /// By typing this name.
    Name(String),
}

/// A question that is on the screen.
#[derive(Debug)]
pub struct Question {
    pub action: Action,
    pub consent: Consent,
    /// The name as far as it is typed.
    pub typed: String,
    /// What else happens with it.
    pub warning: &'static str,
}

/// What a key did to a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered {
    Yes,
    No,
    /// It is still open.
    Open,
}

impl Question {
    pub fn words(&self, node: Option<&str>) -> String {
        let on = node.map(|node| format!(" on node {node}")).unwrap_or_default();
        let verb = self.action.verb.word();
        let mut words = format!("{}{} {}{on}?", verb[..1].to_uppercase(), &verb[1..], self.action.object);
        if !self.warning.is_empty() {
            words += &format!(" {}.", self.warning);
        }
        match &self.consent {
            Consent::Key => words += " y does it, any other key does not.",
            Consent::Name(name) => {
                words += &format!(" Type {name} and Enter to do it, Esc does not: {}", self.typed);
            }
        }
        words
    }

    pub fn key(&mut self, code: crossterm::event::KeyCode) -> Answered {
        use crossterm::event::KeyCode;
        match (&self.consent, code) {
            (Consent::Key, KeyCode::Char('y')) => return Answered::Yes,
            (Consent::Key, _) | (Consent::Name(_), KeyCode::Esc) => return Answered::No,
            (Consent::Name(name), KeyCode::Enter) => {
                return if *name == self.typed { Answered::Yes } else { Answered::No };
            }
            (Consent::Name(_), KeyCode::Backspace) => drop(self.typed.pop()),
            (Consent::Name(_), KeyCode::Char(c)) => self.typed.push(c),
            (Consent::Name(_), _) => {}
        }
        Answered::Open
    }
}

/// Why nothing may be changed; `None` where it may.
pub fn refusal(allowed: bool, access: &Access) -> Option<String> {
    if !allowed {
        return Some("this console is read-only: start it with --allow-actions".to_owned());
    }
    if access.may_act {
        return None;
    }
    let who = if access.identity.is_empty() { "this console" } else { &access.identity };
    let why = match access.why_not.as_str() {
        "" => "it does not say why",
        why => why,
    };
    Some(format!("the daemon lets {who} change nothing: {why}"))
}

/// The question before an action; `None` where its subject is gone.
pub fn question(verb: Verb, subject: Subject, model: &Model) -> Option<Question> {
    let (object, name, running, warning) = match &subject {
        Subject::Pod(id) => {
            let pod: &Pod = model.pod(Some(id))?;
            let running =
                matches!(pod.state(), pod::State::Ready | pod::State::Creating | pod::State::Stopping);
            let warning = if running { "Its containers are killed" } else { "" };
            (format!("pod {}", facts::full_name(pod)), pod.name.clone(), running, warning)
        }
        Subject::Container(id) => {
            let container = model.containers.get(id)?;
            let pod = model.pod(Some(&container.pod_id)).map(facts::full_name).unwrap_or_default();
            let running = container.state() == container::State::Running;
            let warning = if running && verb == Verb::Remove { "It is running and is killed" } else { "" };
            (format!("container {} of {pod}", container.name), container.name.clone(), running, warning)
        }
    };
    let consent =
        if verb == Verb::Remove && running && !name.is_empty() { Consent::Name(name) } else { Consent::Key };
    let action = Action { verb, subject, object };
    Some(Question { action, consent, typed: String::new(), warning })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::KeyCode;
    use sandboxd_api::console::Container;

    fn model() -> Model {
        let mut model = Model::default();
        let pod = Pod {
            id: "p".into(),
            name: "web".into(),
            namespace: "shop".into(),
            state: pod::State::Ready.into(),
            ..Pod::default()
        };
        let one =
            Container { id: "c".into(), pod_id: "p".into(), name: "main".into(), ..Container::default() };
        model.pods.insert("p".into(), pod);
        model.containers.insert("c".into(), one);
        model
    }

    #[test]
    fn stopping_asks_for_one_key_and_names_its_object() {
        let mut question = question(Verb::Stop, Subject::Pod("p".into()), &model()).unwrap();
        assert!(question.words(Some("a")).starts_with("Stop pod shop/web on node a? "));
        assert_eq!(question.key(KeyCode::Char('Y')), Answered::No);
        assert_eq!(question.key(KeyCode::Enter), Answered::No);
        assert_eq!(question.key(KeyCode::Char('y')), Answered::Yes);
    }

    #[test]
    fn removing_what_runs_wants_its_name() {
        let ask = || question(Verb::Remove, Subject::Pod("p".into()), &model()).unwrap();
        let mut typed = ask();
        for c in "wex".chars() {
            assert_eq!(typed.key(KeyCode::Char(c)), Answered::Open);
        }
        assert_eq!(typed.key(KeyCode::Backspace), Answered::Open);
        assert_eq!(typed.key(KeyCode::Char('b')), Answered::Open);
        assert_eq!(typed.key(KeyCode::Enter), Answered::Yes);
        assert_eq!(ask().key(KeyCode::Enter), Answered::No);
        // One that does not run goes with y.
        let gone = question(Verb::Remove, Subject::Container("c".into()), &model()).unwrap();
        assert_eq!(gone.consent, Consent::Key);
        assert!(gone.words(None).contains("container main of shop/web"));
        assert!(question(Verb::Stop, Subject::Pod("other".into()), &model()).is_none());
    }

    #[test]
    fn what_keeps_from_acting_is_said() {
        let may = Access { may_act: true, ..Access::default() };
        assert!(refusal(false, &may).unwrap().contains("--allow-actions"));
        assert_eq!(refusal(true, &may), None);
        let not =
            Access { may_act: false, identity: "uid 7".into(), why_not: "join the group sandboxd".into() };
        let words = refusal(true, &not).unwrap();
        assert!(words.contains("uid 7") && words.contains("join the group"), "{words}");
    }
}
