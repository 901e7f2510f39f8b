//! Key bindings. Panels know only the keys of the manual; what the operator's file binds is translated before it
//! reaches them, and translated back in hints and help.

use std::collections::HashMap;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What can be bound: its name in the file, the manual's key, and what it does. One key has one meaning.
pub const ACTIONS: &[(&str, char, &str)] = &[
    ("quit", 'q', "leave"),
    ("help", '?', "help for what is on the screen"),
    ("filter", '/', "filter"),
    ("why", 'w', "why it was denied or failed"),
    ("next-problem", 'e', "the next thing that wants a look"),
    ("node", 'i', "the node"),
    ("copy", 'y', "copy what is selected to the clipboard"),
    ("refresh", 'r', "read it again"),
    ("describe", 'D', "the pod in full"),
    ("sort", 's', "sort by the next column"),
    ("reverse", 'S', "turn the order round"),
    ("columns", 'c', "choose the columns"),
    ("pause", ' ', "pause a stream"),
    ("follow", 'f', "follow a stream"),
    ("only-wrong", 'd', "only what is wrong: denied, leaked, warnings"),
    ("down", 'j', "down"),
    ("up", 'k', "up"),
    ("first", 'g', "first"),
    ("last", 'G', "last"),
];

/// Keys that cannot be bound, and what they do.
const FIXED: &[(KeyCode, &str)] = &[
    (KeyCode::Esc, "back"),
    (KeyCode::Backspace, "back"),
    (KeyCode::Enter, "open"),
    (KeyCode::Tab, "next view"),
    (KeyCode::BackTab, "previous view"),
    (KeyCode::Up, "up"),
    (KeyCode::Down, "down"),
    (KeyCode::PageUp, "page up"),
    (KeyCode::PageDown, "page down"),
    (KeyCode::Home, "first"),
    (KeyCode::End, "last"),
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no action {0:?} to bind a key to: use one of {1}")]
    UnknownAction(String, String),
    #[error("{0:?} of {1:?} is no key: use one character, space, F1 to F12, or ctrl-x")]
    NotAKey(String, String),
    #[error("keys clash: {key:?} would be both {one:?} and {other:?}; bind one of them to another key")]
    Clash { key: String, one: String, other: String },
    #[error("keys clash: {key:?} of {action:?} is {fixed:?} everywhere and cannot be bound")]
    Fixed { key: String, action: String, fixed: String },
}

/// A key as it is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    code: KeyCode,
    control: bool,
}

impl Key {
    fn of(event: KeyEvent) -> Self {
        Self { code: event.code, control: event.modifiers.contains(KeyModifiers::CONTROL) }
    }

    fn parse(text: &str) -> Option<Self> {
        let lower = text.to_lowercase();
        if let Some(rest) = lower.strip_prefix("ctrl-") {
            let c = rest.chars().next().filter(|_| rest.chars().count() == 1)?;
            return Some(Self { code: KeyCode::Char(c), control: true });
        }
        let code = match lower.as_str() {
            "space" => KeyCode::Char(' '),
            "esc" => KeyCode::Esc,
            "enter" => KeyCode::Enter,
            "tab" => KeyCode::Tab,
            "backspace" => KeyCode::Backspace,
            "up" => KeyCode::Up,
            "down" => KeyCode::Down,
            "home" => KeyCode::Home,
            "end" => KeyCode::End,
            "pgup" => KeyCode::PageUp,
            "pgdn" => KeyCode::PageDown,
            _ if lower.len() > 1
                && lower.starts_with('f')
                && lower[1..].bytes().all(|b| b.is_ascii_digit()) =>
            {
                KeyCode::F(lower[1..].parse().ok().filter(|number| (1..=12).contains(number))?)
            }
            _ => {
                let mut chars = text.chars();
                let c = chars.next().filter(|c| !c.is_control())?;
                chars.next().is_none().then_some(KeyCode::Char(c))?
            }
        };
        Some(Self { code, control: false })
    }

    fn label(self) -> String {
        let key = match self.code {
            KeyCode::Char(' ') => "space".to_owned(),
            KeyCode::Char(c) => c.to_string(),
            KeyCode::F(number) => format!("F{number}"),
            other => other.to_string(),
        };
        if self.control { format!("ctrl-{key}") } else { key }
    }

    fn fixed(self) -> Option<&'static str> {
        match self.code {
            KeyCode::Char('c') if self.control => Some("leave"),
            KeyCode::Char('d' | 'u' | 'f' | 'b') if self.control => Some("pages"),
            KeyCode::Char('1'..='9') if !self.control => Some("a view"),
            code => FIXED.iter().find(|(fixed, _)| *fixed == code).map(|(_, does)| *does),
        }
    }
}

/// Empty: the manual's keys.
#[derive(Debug, Clone, Default)]
pub struct Keymap {
    /// What is pressed, and the manual's key for it.
    bound: HashMap<Key, char>,
    /// The manual's key, and what is pressed for it.
    labels: HashMap<char, Key>,
}

impl Keymap {
    /// From pairs of an action and its key.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, KeyError> {
        let mut keymap = Self::default();
        for (action, text) in pairs {
            let Some((_, manual, _)) = ACTIONS.iter().find(|(name, ..)| *name == action) else {
                let names: Vec<_> = ACTIONS.iter().map(|(name, ..)| *name).collect();
                return Err(KeyError::UnknownAction(action.to_owned(), names.join(", ")));
            };
            let key =
                Key::parse(text).ok_or_else(|| KeyError::NotAKey(text.to_owned(), action.to_owned()))?;
            if let Some(fixed) = key.fixed() {
                let (key, action) = (key.label(), action.to_owned());
                return Err(KeyError::Fixed { key, action, fixed: fixed.to_owned() });
            }
            keymap.labels.insert(*manual, key);
        }
        // All of them, so that a key that was moved to clashes with one that was left where it is.
        let mut taken: HashMap<Key, &str> = HashMap::new();
        for (name, manual, _) in ACTIONS {
            let key = keymap.key(*manual);
            if let Some(one) = taken.insert(key, name) {
                return Err(KeyError::Clash {
                    key: key.label(),
                    one: one.to_owned(),
                    other: (*name).to_owned(),
                });
            }
        }
        keymap.bound = keymap.labels.iter().map(|(manual, key)| (*key, *manual)).collect();
        Ok(keymap)
    }

    fn key(&self, manual: char) -> Key {
        let code = KeyCode::Char(manual);
        self.labels.get(&manual).copied().unwrap_or(Key { code, control: false })
    }

    /// The manual's key for what was pressed; a key that was bound away means nothing.
    pub fn translate(&self, event: KeyEvent) -> KeyEvent {
        let pressed = Key::of(event);
        if let Some(manual) = self.bound.get(&pressed) {
            return KeyEvent::new(KeyCode::Char(*manual), KeyModifiers::NONE);
        }
        match pressed.code {
            KeyCode::Char(c) if !pressed.control && self.labels.contains_key(&c) => {
                KeyEvent::new(KeyCode::Null, KeyModifiers::NONE)
            }
            _ => event,
        }
    }

    /// Keys as the help names them: each of `j k` by what is pressed for it.
    pub fn label(&self, keys: &str) -> String {
        if self.labels.is_empty() {
            return keys.to_owned();
        }
        let one = |word: &str| {
            let manual = if word == "space" { Some(' ') } else { word.chars().next() };
            match manual.filter(|_| word == "space" || word.chars().count() == 1) {
                Some(manual) if self.labels.contains_key(&manual) => self.key(manual).label(),
                _ => word.to_owned(),
            }
        };
        keys.split(' ').map(one).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn a_clash_names_both_actions() {
        let clash = Keymap::new([("why", "x"), ("node", "x")]).unwrap_err().to_string();
        assert!(
            clash.contains("\"why\"") && clash.contains("\"node\"") && clash.contains("\"x\""),
            "{clash}"
        );
        let left = Keymap::new([("why", "e")]).unwrap_err().to_string();
        assert!(left.contains("\"why\"") && left.contains("\"next-problem\""), "{left}");
        let fixed = Keymap::new([("why", "Enter")]).unwrap_err().to_string();
        assert!(fixed.contains("\"why\"") && fixed.contains("\"open\""), "{fixed}");
        assert!(Keymap::new([("wy", "x")]).unwrap_err().to_string().contains("next-problem"));
        assert!(Keymap::new([("why", "F13")]).is_err() && Keymap::new([("why", "")]).is_err());
    }

    #[test]
    fn the_manual_has_no_clash_of_its_own() {
        assert!(Keymap::new([]).is_ok());
    }

    #[test]
    fn keys_can_swap_and_what_was_bound_away_means_nothing() {
        let keys = Keymap::new([("why", "e"), ("next-problem", "w"), ("help", "F1")]).unwrap();
        assert_eq!(keys.translate(press(KeyCode::Char('e'))).code, KeyCode::Char('w'));
        assert_eq!(keys.translate(press(KeyCode::Char('w'))).code, KeyCode::Char('e'));
        assert_eq!(keys.translate(press(KeyCode::F(1))).code, KeyCode::Char('?'));
        assert_eq!(keys.translate(press(KeyCode::Char('?'))).code, KeyCode::Null);
        assert_eq!(keys.translate(press(KeyCode::Char('j'))).code, KeyCode::Char('j'));
        assert_eq!(keys.label("?"), "F1");
        assert_eq!(keys.label("j w"), "j e");
        let paused = Keymap::new([("pause", "ctrl-p")]).unwrap();
        assert_eq!(paused.label("space"), "ctrl-p");
    }
}
