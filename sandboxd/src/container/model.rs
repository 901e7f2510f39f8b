//! What is known of a container.

use std::fmt;

use sandboxd_image::Reference;
use serde::{Deserialize, Serialize};

use super::spec::{ContainerSpec, ImageRef};
use crate::pod::model::PodId;
use crate::runtime::Exit;

/// A container's id: 64 lower-case hex digits, unguessable.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(String);

impl ContainerId {
    /// A new random id.
    ///
    /// # Errors
    /// When the kernel has no random numbers to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// An id that came back from disk, or from a test.
    #[must_use]
    pub fn from_string(id: String) -> Self {
        Self(id)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 13 digits, as tools print ids.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..13).unwrap_or(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Life cycle of a container, as CRI has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    /// It ended, or never began, while nobody could see how.
    Unknown,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub exit: Exit,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// The kernel killed a process of its cgroup for lack of memory.
    pub oom_killed: bool,
    /// Why it could not be started; empty for one that ran.
    pub message: String,
}

/// The ids its process runs with, inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// What the image was called when a container was made of it: it may lose its names while the container lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNames {
    pub tag: Option<String>,
    pub digest: Option<String>,
}

impl ImageNames {
    /// Of several names the one that was asked for, else one in the same repository.
    pub fn choose(tags: &[String], digests: &[String], asked: &ImageRef) -> Self {
        let asked = [&asked.user_specified_image, &asked.image];
        let asked: Vec<Reference> = asked.iter().filter_map(|name| name.parse().ok()).collect();
        let choose = |names: &[String]| {
            let exact = |name: &&String| asked.iter().any(|asked| asked.to_string() == **name);
            let beside = |name: &&String| {
                let name = name.parse::<Reference>();
                name.is_ok_and(|name| asked.iter().any(|asked| asked.repository() == name.repository()))
            };
            names.iter().find(exact).or_else(|| names.iter().find(beside)).or(names.first()).cloned()
        };
        Self { tag: choose(tags), digest: choose(digests) }
    }
}

/// All that is known of a container: what the store publishes and readers get as a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub id: ContainerId,
    pub pod: PodId,
    pub spec: ContainerSpec,
    pub state: ContainerState,
    /// The id of the image it was made from, and the layers it needs: the image's, lowest first, then those of
    /// its image volumes.
    pub image_id: String,
    pub layers: Vec<String>,
    #[serde(default)]
    pub image_names: ImageNames,
    pub ids: Ids,
    /// Nanoseconds since the Unix epoch, never 0.
    pub created_at_ns: i64,
    pub started_at_ns: Option<i64>,
    pub ended: Option<Ended>,
    /// In the host's pid namespace, while it lives: for display and attribution, never to act on.
    pub pid: Option<i32>,
    /// Where the container's cgroup is, under each hierarchy.
    pub cgroup: String,
    pub stop_signal: i32,
}

impl Container {
    /// Why it ended, in the words that kubelet shows and tools know; empty for one that has not.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let Some(ended) = &self.ended else { return "" };
        match ended.exit {
            _ if ended.oom_killed => "OOMKilled",
            Exit::Unknown => "Unknown",
            // It never ran: there are words on why.
            _ if self.started_at_ns.is_none() && !ended.message.is_empty() => "StartError",
            Exit::Code(0) => "Completed",
            Exit::Code(_) | Exit::Signal(_) => "Error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_called_what_was_asked_for_or_its_like() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let digest =
            |repository: &str, of: char| format!("{repository}@sha256:{}", of.to_string().repeat(64));
        let tags = names(&["a.example/other:2", "docker.io/library/bb:1", "docker.io/library/bb:2"]);
        let digests = [
            digest("a.example/other", 'a'),
            digest("docker.io/library/bb", 'a'),
            digest("docker.io/library/bb", 'b'),
        ];
        let asked = |name: &str| {
            let image = format!("sha256:{}", "c".repeat(64));
            let image = ImageRef { image, user_specified_image: name.to_owned(), ..test_image() };
            let chosen = ImageNames::choose(&tags, &digests, &image);
            (chosen.tag.unwrap(), chosen.digest.unwrap())
        };
        assert_eq!(asked("bb:2"), (tags[2].clone(), digests[1].clone()));
        assert_eq!(asked(&digests[2]), (tags[1].clone(), digests[2].clone()));
        assert_eq!(asked(""), (tags[0].clone(), digests[0].clone()));
        assert_eq!(ImageNames::choose(&[], &[], &test_image()), ImageNames::default());
    }

    fn test_image() -> ImageRef {
        ImageRef {
            image: "bb".into(),
            user_specified_image: String::new(),
            runtime_handler: String::new(),
            annotations: Default::default(),
            image_id: String::new(),
        }
    }
}
