//! What the console remembers: `tui.toml` under `$XDG_CONFIG_HOME/sandboxd`.
//!
//! ```toml
//! columns = ["name", "ns", "state", "owner"]   # of the pod table, in this order; without it: all that fit
//! background = "light"                          # or "dark"; without it: COLORFGBG tells, else dark
//!
//! [keys]
//! why = "x"
//! ```
//!
//! The file never stops the console: one that cannot be read is told about, left as it is, and not written.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml_edit::{Array, DocumentMut, value};

use crate::keys::{KeyError, Keymap};
use crate::model::sort::Column;
use crate::panel::columns::Chosen;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?}: {}", .source.message())]
    Parse { path: PathBuf, source: Box<toml_edit::de::Error> },
    #[error("{path:?}: no column {column:?}: use some of {all}")]
    Column { path: PathBuf, column: String, all: String },
    #[error("{path:?}: column {column:?} is named twice")]
    Twice { path: PathBuf, column: String },
    #[error("{path:?}: {source}")]
    Keys { path: PathBuf, source: KeyError },
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path:?} is not written: it could not be read")]
    Unread { path: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    Light,
    Dark,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    columns: Option<Vec<String>>,
    background: Option<Background>,
    keys: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub struct Config {
    pub columns: Chosen,
    pub keys: Keymap,
    background: Option<Background>,
    /// Why the file could not be taken; it is not written then.
    pub problem: Option<String>,
}

/// `$XDG_CONFIG_HOME/sandboxd/tui.toml`, else under `~/.config`; nothing without either.
pub fn path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(base.join("sandboxd/tui.toml"))
}

impl Config {
    /// What the file says; a file that is not there says nothing.
    pub fn load(path: &Path) -> Self {
        Self::read(path).unwrap_or_else(|error| {
            let source =
                std::error::Error::source(&error).filter(|_| matches!(error, ConfigError::Read { .. }));
            let why = source.map_or_else(String::new, |source| format!(": {source}"));
            Self { problem: Some(crate::text::clean(&format!("{error}{why}"))), ..Self::default() }
        })
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let file: File = toml_edit::de::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let keys = Keymap::new(file.keys.iter().map(|(action, key)| (&**action, &**key)))
            .map_err(|source| ConfigError::Keys { path: path.to_owned(), source })?;
        let columns = match file.columns {
            None => Chosen::default(),
            Some(names) => Chosen::only(columns(path, &names)?),
        };
        Ok(Self { columns, keys, background: file.background, problem: None })
    }

    /// Whether the terminal's background is light: as configured, else as `COLORFGBG` says (`0;15`).
    pub fn light(&self, colorfgbg: Option<&str>) -> bool {
        match self.background {
            Some(background) => background == Background::Light,
            None => {
                let background = colorfgbg.and_then(|colors| colors.rsplit(';').next()?.parse::<u8>().ok());
                matches!(background, Some(7 | 9..=15))
            }
        }
    }
}

fn columns(path: &Path, names: &[String]) -> Result<Vec<Column>, ConfigError> {
    let mut columns = Vec::new();
    for name in names {
        let found = Column::ALL.into_iter().find(|column| column.key() == name);
        let column = found.ok_or_else(|| ConfigError::Column {
            path: path.to_owned(),
            column: name.clone(),
            all: Column::ALL.map(Column::key).join(", "),
        })?;
        if columns.contains(&column) {
            return Err(ConfigError::Twice { path: path.to_owned(), column: name.clone() });
        }
        columns.push(column);
    }
    Ok(columns)
}

/// Writes the columns into the file and leaves the rest of it, comments too, as it is. The file is replaced as a
/// whole: a console that is killed meanwhile leaves the old one or the new one.
pub fn remember(path: &Path, chosen: &[Column]) -> Result<(), ConfigError> {
    let failed = |source| ConfigError::Write { path: path.to_owned(), source };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(_) => return Err(ConfigError::Unread { path: path.to_owned() }),
    };
    let mut document: DocumentMut =
        text.parse().map_err(|_| ConfigError::Unread { path: path.to_owned() })?;
    if chosen.is_empty() {
        document.remove("columns");
    } else {
        document["columns"] = value(chosen.iter().map(|column| column.key()).collect::<Array>());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let new = directory.join(format!(".tui.toml.{}", std::process::id()));
    let written = (|| {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(document.to_string().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_remembered_and_the_rest_of_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sandboxd/tui.toml");
        assert!(Config::load(&path).problem.is_none(), "no file is no problem");
        remember(&path, &[Column::State, Column::Name]).unwrap();
        assert_eq!(Config::load(&path).columns.listed(), Some(&[Column::State, Column::Name][..]));
        std::fs::write(&path, "# mine\ncolumns = [\"name\"]\n\n[keys]\nwhy = \"x\" # as in other tools\n")
            .unwrap();
        remember(&path, &[Column::Owner]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("# mine") && text.contains("# as in other tools"), "{text}");
        assert!(text.contains("columns = [\"owner\"]"), "{text}");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        remember(&path, &[]).unwrap();
        assert_eq!(Config::load(&path).columns.listed(), None);
    }

    #[test]
    fn what_is_wrong_is_told_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tui.toml");
        for (text, words) in [
            ("columns = [\"nmae\"]", "no column \"nmae\""),
            ("columns = [\"name\", \"name\"]", "twice"),
            ("colums = []", "unknown field `colums`"),
            ("background = \"blue\"", "blue"),
            ("[keys]\nwhy = \"x\"\nnode = \"x\"", "\"why\""),
            ("= nonsense", "tui.toml"),
        ] {
            std::fs::write(&path, text).unwrap();
            let problem = Config::load(&path).problem.unwrap_or_default();
            assert!(problem.contains(words), "{text}: {problem}");
        }
        assert!(matches!(remember(&path, &[Column::Name]), Err(ConfigError::Unread { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "= nonsense");
        let nowhere = Path::new("/proc/nowhere/tui.toml");
        assert!(matches!(remember(nowhere, &[Column::Name]), Err(ConfigError::Write { .. })));
    }

    #[test]
    fn the_background_is_configured_or_guessed() {
        let config = Config::default();
        assert!(!config.light(None) && !config.light(Some("15;0")) && config.light(Some("0;15")));
        assert!(config.light(Some("0;default;15")));
        let light = Config { background: Some(Background::Light), ..Config::default() };
        assert!(light.light(Some("15;0")));
    }
}
