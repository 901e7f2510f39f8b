//! Image references, written out as docker and containerd do: "busybox" is "docker.io/library/busybox:latest".
//!
//! ```text
//! [domain[:port]/]path/components[:tag][@sha256:…]
//! ```
//! What comes before the first slash is a domain if it has a dot, a colon or an upper-case letter, or is
//! "localhost"; else the image is docker.io's. Of a tag and a digest the digest decides and the tag is dropped,
//! as containerd does: nobody checked that the registry's tag still is that digest.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::content::Digest;

/// Bytes of domain and path together, as docker bounds them.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// Longer ones are not even looked at.
const REFERENCE_MAX: usize = 4096;

/// The registry of names without a domain, and where it really is.
const DOCKER: &str = "docker.io";
const DOCKER_LEGACY: &str = "index.docker.io";
const OFFICIAL: &str = "library";

/// Which image of which repository of which registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    version: Version,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    Tag(String),
    Digest(Digest),
}

/// A string that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference:?} is no image reference: {why}")]
pub struct BadReference {
    pub reference: String,
    pub why: Why,
}

/// What is wrong with it, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("it is empty; name an image, such as registry.example/app:1.0")]
    Empty,
    #[error("it has {0} bytes, more than any reference has")]
    TooLong(usize),
    #[error("domain and path have {0} bytes, at most 255 are allowed")]
    NameLength(usize),
    #[error(
        "the domain {0:?} is none: letters, digits, '-' and '.', or [an IPv6 address], then perhaps :port"
    )]
    Domain(String),
    #[error("the path has upper-case letters in {0:?}: repositories are lower case")]
    UpperCase(String),
    #[error(
        "{0:?} is no part of a path: lower-case letters and digits, between them one '.', one or two '_', or '-'s"
    )]
    Component(String),
    #[error(
        "the tag {0:?} is none: at most 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'"
    )]
    Tag(String),
    #[error("after the @ {0}")]
    Digest(crate::content::BadDigest),
    #[error("it begins with a scheme: leave {0:?} out")]
    Scheme(String),
    #[error("64 hex digits are an image's id, and no registry can be asked for that")]
    Id,
}

impl Reference {
    /// The registry's name as it is in the reference: "docker.io", "registry.example:5000".
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry: "library/busybox".
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// "docker.io/library/busybox"
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// What the registry is asked for: a tag or a digest.
    #[must_use]
    pub fn object(&self) -> String {
        match &self.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        }
    }

    /// The tag written out, where it has one.
    #[must_use]
    pub fn tag(&self) -> Option<String> {
        matches!(self.version, Version::Tag(_)).then(|| self.to_string())
    }

    /// The repository with a digest: a repo digest.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.repository())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        parse(text).map_err(|why| BadReference { reference: text.chars().take(300).collect(), why })
    }
}

fn parse(text: &str) -> Result<Reference, Why> {
    if text.is_empty() {
        return Err(Why::Empty);
    }
    if text.len() > REFERENCE_MAX {
        return Err(Why::TooLong(text.len()));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(Why::Scheme(format!("{scheme}://")));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(Why::Digest)?)),
        None => (text, None),
    };
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[last..].split_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    if digest.is_none() && tag.is_none() && is_id(name) {
        return Err(Why::Id);
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain_like(first) => (first, path.to_owned()),
        _ => (DOCKER, name.to_owned()),
    };
    let domain = if domain == DOCKER_LEGACY { DOCKER } else { domain };
    let path = if domain == DOCKER && !path.contains('/') { format!("{OFFICIAL}/{path}") } else { path };
    check_domain(domain)?;
    path.split('/').try_for_each(check_component)?;
    let length = domain.len() + 1 + path.len();
    if length > NAME_MAX {
        return Err(Why::NameLength(length));
    }
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference { domain: domain.to_owned(), path, version })
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_domain(text: &str) -> Result<(), Why> {
    let bad = || Why::Domain(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(bad)?;
        address.parse::<Ipv6Addr>().map_err(|_| bad())?;
        (None, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let good_host = host.is_none_or(|host| host.split('.').all(label));
    let good_port =
        port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    if good_host && good_port { Ok(()) } else { Err(bad()) }
}

/// Runs of letters and digits, separated by one '.', one or two '_', or any number of '-'.
fn check_component(text: &str) -> Result<(), Why> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Why::UpperCase(text.to_owned()));
    }
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bad = || Why::Component(text.to_owned());
    let edges = [text.bytes().next(), text.bytes().last()];
    if !edges.into_iter().all(|edge| edge.is_some_and(alphanumeric)) {
        return Err(bad());
    }
    let separators =
        text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    for separator in separators {
        let good = matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
        if !good {
            return Err(bad());
        }
    }
    Ok(())
}

fn check_tag(text: &str) -> Result<(), Why> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let good =
        (1..=TAG_MAX).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-']);
    if good { Ok(()) } else { Err(Why::Tag(text.chars().take(160).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap_or_else(|e| panic!("{e}")).to_string()
    }

    #[test]
    fn names_are_written_out() {
        for (short, long) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("localhost/x:y", "localhost/x:y"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("[fd00::1]/a/b", "[fd00::1]/a/b:latest"),
            ("Example.org/a__b/c--d.e:T", "Example.org/a__b/c--d.e:T"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ] {
            assert_eq!(full(short), long);
        }
    }

    #[test]
    fn the_digest_decides() {
        let digest = Digest::of(b"");
        let reference: Reference = format!("busybox:1.36@{digest}").parse().expect("a reference");
        assert_eq!(reference.to_string(), format!("docker.io/library/busybox@{digest}"));
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.object(), digest.to_string());
        assert_eq!(reference.domain(), "docker.io");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let id = "a".repeat(64);
        let long = format!("example.org/{}", "a/".repeat(130) + "a");
        let tag = format!("a:{}", "t".repeat(129));
        for (text, word) in [
            ("", "empty"),
            ("https://example.org/a", "https://"),
            ("example.org/UPPER", "upper-case"),
            ("a//b", "\"\""),
            ("../x", "\"..\""),
            ("example.org/../x", "\"..\""),
            ("a:", "tag"),
            ("a:-x", "tag"),
            ("a:b:c", "tag"),
            ("a___b", "a___b"),
            ("a_.b", "a_.b"),
            ("example.org:70000/a", "domain"),
            ("[::g]/a", "domain"),
            ("a b", "a b"),
            ("busybox@sha256:abc", "digest"),
            ("busybox@md5:d41d8cd98f00b204e9800998ecf8427e", "digest"),
            (&id, "id"),
            (&long, "255"),
            (&tag, "128"),
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
