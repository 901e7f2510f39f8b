//! AppArmor: which profiles are loaded on this node, and the default one that sandboxd brings.
//!
//! ```text
//!  not enabled ─▶ Off             profiles are refused, RuntimeDefault applies nothing
//!  enabled ─▶ default profile loaded ─▶ WithDefault
//!                  └─ not ─▶ WithoutDefault     RuntimeDefault is refused with the reason,
//!                                               what asks for nothing runs unconfined
//! ```

mod parser;
mod profile;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use profile::{NAME, USERNS};

/// What went wrong with a profile.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    #[error(
        "apparmor profile not found {profile}: load it on this node with apparmor_parser, or use another"
    )]
    NotFound { profile: String },
    #[error("loading the AppArmor profile {NAME} again failed")]
    Default(#[source] Box<AppArmorError>),
    #[error("apparmor_parser is not on the PATH: install the package apparmor")]
    NoParser,
    #[error("running {}", parser.display())]
    Run {
        parser: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} did not end within {} s", parser.display(), after.as_secs())]
    Slow { parser: PathBuf, after: Duration },
    #[error("{} ends with {status}: {said}", parser.display())]
    Refused { parser: PathBuf, status: std::process::ExitStatus, said: String },
}

/// What the node has of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Support {
    #[default]
    Off,
    WithDefault,
    WithoutDefault {
        reason: String,
    },
}

impl Support {
    /// What is lost where there is no default profile.
    #[must_use]
    pub fn lacking(&self) -> Option<String> {
        let Self::WithoutDefault { reason } = self else { return None };
        Some(format!(
            "AppArmor is enabled, but the profile {NAME} is not loaded ({reason}): containers run unconfined unless \
             they name a profile, and RuntimeDefault is refused"
        ))
    }
}

/// Where AppArmor is seen and asked.
#[derive(Debug, Clone)]
struct Places {
    enabled: PathBuf,
    profiles: PathBuf,
    abi: PathBuf,
    label: PathBuf,
    parser: Option<PathBuf>,
}

impl Places {
    fn of_this_node() -> Self {
        Self {
            enabled: "/sys/module/apparmor/parameters/enabled".into(),
            profiles: "/sys/kernel/security/apparmor/profiles".into(),
            abi: "/etc/apparmor.d/abi/3.0".into(),
            label: "/proc/self/attr/current".into(),
            parser: parser::find(),
        }
    }

    fn enabled(&self) -> bool {
        std::fs::read_to_string(&self.enabled).is_ok_and(|text| text.trim() == "Y")
    }

    /// Which of these are loaded.
    fn loaded<const N: usize>(&self, names: [&str; N]) -> io::Result<[bool; N]> {
        let text = std::fs::read_to_string(&self.profiles)?;
        // "web (enforce)"
        let is = |line: &str, name| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(" ("));
        Ok(names.map(|name| text.lines().any(|line| is(line, name))))
    }

    fn text(&self) -> String {
        let label = std::fs::read_to_string(&self.label).unwrap_or_default();
        let label = label.trim_end_matches(['\n', '\0']);
        let label = label.rsplit_once(" (").map_or(label, |(name, _mode)| name);
        let confined = !matches!(label, "" | "unconfined") && !label.contains('"');
        profile::text(self.abi.exists(), confined.then_some(label))
    }

    fn load(&self) -> Result<(), AppArmorError> {
        let parser = self.parser.as_deref().ok_or(AppArmorError::NoParser)?;
        // Replaced where it is loaded, and nothing kept in the parser's cache.
        parser::feed(parser, "-Kr", &self.text())
    }
}

/// The AppArmor of this node.
#[derive(Debug)]
pub struct AppArmor {
    places: Arc<Places>,
    support: Support,
}

impl AppArmor {
    /// Loads the default profile where AppArmor is enabled. Blocks while the profile is compiled: not for an async
    /// task.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(Places::of_this_node())
    }

    fn start_in(places: Places) -> Self {
        let support = if places.enabled() { default(&places) } else { Support::Off };
        if let Some(lacking) = support.lacking() {
            tracing::warn!("{lacking}");
        }
        Self { places: Arc::new(places), support }
    }

    /// What requests may ask for.
    #[must_use]
    pub fn support(&self) -> &Support {
        &self.support
    }

    /// That a profile can be entered. The default one is loaded again where somebody has removed it meanwhile
    /// (`aa-remove-unknown` does).
    ///
    /// # Errors
    /// [`AppArmorError::NotFound`], and [`AppArmorError::Default`].
    pub async fn ensure(&self, profile: &str) -> Result<(), AppArmorError> {
        let (places, profile) = (Arc::clone(&self.places), profile.to_owned());
        let ensured = tokio::task::spawn_blocking(move || ensure(&places, &profile)).await;
        // Only the daemon's end keeps it from running; and the kernel itself enters no profile that is not loaded.
        ensured.unwrap_or(Ok(()))
    }
}

fn default(places: &Places) -> Support {
    let Err(error) = places.load() else {
        tracing::info!("loaded the AppArmor profiles {NAME} and {USERNS}");
        return Support::WithDefault;
    };
    let reason = chain(&error);
    // As a node's image may have it that loads all its profiles at boot.
    if places.loaded([NAME, USERNS]).is_ok_and(|loaded| loaded == [true; 2]) {
        tracing::info!(reason, "using the AppArmor profiles {NAME} and {USERNS} as they were loaded before");
        return Support::WithDefault;
    }
    Support::WithoutDefault { reason }
}

fn ensure(places: &Places, profile: &str) -> Result<(), AppArmorError> {
    // A stack is entered when all of it is there. The list has those of other namespaces by other names: the
    // kernel decides at the start.
    for name in profile.split("//&").filter(|name| *name != "unconfined" && !name.starts_with(':')) {
        match places.loaded([name]) {
            Ok([true]) => {}
            Ok([false]) if [NAME, USERNS].contains(&name) => {
                places.load().map_err(|error| AppArmorError::Default(Box::new(error)))?;
                tracing::info!("the AppArmor profile {name} had been removed: loaded it again");
            }
            Ok([false]) => return Err(AppArmorError::NotFound { profile: name.to_owned() }),
            Err(error) => {
                let list = places.profiles.display();
                tracing::debug!(%error, "cannot read {list}: whether {name} is loaded shows at the start");
            }
        }
    }
    Ok(())
}

/// What the doctor says: how it is, and what is missing with what to do.
pub(crate) fn examine(running: bool) -> Result<String, (String, &'static str)> {
    examine_in(&Places::of_this_node(), running)
}

fn examine_in(places: &Places, running: bool) -> Result<String, (String, &'static str)> {
    if !places.enabled() {
        return Ok("not enabled: no profile is applied".into());
    }
    if places.loaded([NAME, USERNS]).is_ok_and(|loaded| loaded == [true; 2]) {
        return Ok(format!("containers that name no profile run in {NAME}, which is loaded"));
    }
    let parser = places.parser.as_deref().ok_or(AppArmorError::NoParser);
    // Compiled alone, so that nothing is left.
    let compiled = parser.and_then(|parser| parser::feed(parser, "-KQ", &places.text()));
    let reason = match compiled {
        Ok(()) if running => "see the daemon's log".into(),
        Ok(()) => {
            return Ok(format!("{NAME} can be compiled here, and is loaded when the daemon starts"));
        }
        Err(error) => chain(&error),
    };
    let lacking = Support::WithoutDefault { reason }.lacking().unwrap_or_default();
    Err((lacking, "install the package apparmor, mount securityfs on /sys/kernel/security, restart sandboxd"))
}

fn chain(error: &AppArmorError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[cfg(test)]
mod tests;
