//! Colours and signs. Colour is never the only cue, and no background is ever set: a selected row is
//! reversed. On a light background the light colours are replaced by dark ones.

use ratatui::style::{Color, Modifier, Style};

/// How to draw: with colours or without (`NO_COLOR`), in Unicode or ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    pub color: bool,
    pub ascii: bool,
    /// Whether the terminal's background is light.
    pub light: bool,
}

/// The signs that a terminal without Unicode needs replaced.
#[derive(Debug)]
pub struct Glyphs {
    pub rule: &'static str,
    pub branch: &'static str,
    pub last: &'static str,
    pub pipe: &'static str,
    pub own_bar: &'static str,
    pub cni_bar: &'static str,
    pub dot: &'static str,
    pub ellipsis: &'static str,
    pub arrow: &'static str,
    pub pointer: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub ready: &'static str,
    pub creating: &'static str,
    pub idle: &'static str,
    pub failed: &'static str,
    pub none: &'static str,
}

/// Stands before everything that is wrong, in every theme.
pub const WRONG: &str = "!!";

static UNICODE: Glyphs = Glyphs {
    rule: "─",
    branch: "├─ ",
    last: "└─ ",
    pipe: "│  ",
    own_bar: "█",
    cni_bar: "░",
    dot: "·",
    ellipsis: "…",
    arrow: "→",
    pointer: "▸",
    up: "▲",
    down: "▼",
    ready: "●",
    creating: "◌",
    idle: "○",
    failed: "✗",
    none: "–",
};

static ASCII: Glyphs = Glyphs {
    rule: "-",
    branch: "|- ",
    last: "`- ",
    pipe: "|  ",
    own_bar: "#",
    cni_bar: "=",
    dot: "|",
    ellipsis: "~",
    arrow: "->",
    pointer: ">",
    up: "^",
    down: "v",
    ready: "*",
    creating: "~",
    idle: "o",
    failed: "x",
    none: "-",
};

impl Theme {
    pub fn glyphs(self) -> &'static Glyphs {
        if self.ascii { &ASCII } else { &UNICODE }
    }

    fn fg(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    /// Wrong: needs a look. Bold as well, for eyes and terminals without red.
    pub fn bad(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// In between or stepped down. Magenta, as yellow vanishes on a light background.
    pub fn warn(self) -> Style {
        self.fg(Color::Magenta)
    }

    pub fn good(self) -> Style {
        // The plain green is too bright for white; this one is of the 256 that every such terminal has.
        self.fg(if self.light { Color::Indexed(22) } else { Color::Green })
    }

    pub fn accent(self) -> Style {
        self.fg(if self.light { Color::Blue } else { Color::Cyan })
    }

    pub fn plain(self) -> Style {
        Style::new()
    }

    /// Of less weight than what stands beside it.
    pub fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn heading(self) -> Style {
        self.accent().add_modifier(Modifier::BOLD)
    }

    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
