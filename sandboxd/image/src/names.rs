//! Names of images as people write them.

use crate::content::Digest;

/// What a name comes to when it is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// "docker.io/library/busybox:latest"
    Tag(String),
    /// "docker.io/library/busybox@sha256:…"
    Digest(String),
}

/// Writes a name out as docker does: `busybox` is "docker.io/library/busybox:latest"; of a tag and a
/// digest, the digest counts. `None` where it is no name.
pub(crate) fn normalise(text: &str) -> Option<Name> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().ok()?)),
        None => (text, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match rest[slash..].split_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    let (domain, path) = match repository.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path),
        _ => ("docker.io", repository),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    if text.len() > 4096 || !is_domain(domain) || !path.split('/').all(is_component) {
        return None;
    }
    let library = if domain == "docker.io" && !path.contains('/') { "library/" } else { "" };
    if !tag.is_none_or(is_tag) {
        return None;
    }
    Some(match digest {
        Some(digest) => Name::Digest(format!("{domain}/{library}{path}@{digest}")),
        None => Name::Tag(format!("{domain}/{library}{path}:{}", tag.unwrap_or("latest"))),
    })
}

fn is_domain(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_component(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|&b| inner(b))
        && bytes.first().is_some_and(|&b| edge(b))
        && bytes.last().is_some_and(|&b| edge(b))
}

fn is_tag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_out() {
        let tag = |text: &str| match normalise(text) {
            Some(Name::Tag(tag)) => tag,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(tag("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(tag("busybox:1.36"), "docker.io/library/busybox:1.36");
        assert_eq!(tag("user/app"), "docker.io/user/app:latest");
        assert_eq!(tag("index.docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(tag("localhost/x:y"), "localhost/x:y");
        assert_eq!(tag("localhost:5000/x"), "localhost:5000/x:latest");
        assert_eq!(tag("example.org/a/b:1"), "example.org/a/b:1");
    }

    #[test]
    fn the_digest_counts() {
        let digest = Digest::of(b"");
        assert_eq!(
            normalise(&format!("busybox:1@{digest}")),
            Some(Name::Digest(format!("docker.io/library/busybox@{digest}")))
        );
        assert_eq!(normalise("busybox@sha256:abc"), None);
    }

    #[test]
    fn what_is_no_name() {
        for bad in ["", "/", "UPPER", "a//b", "../x", "a:", "a:b:c", "example.org/", "-a", "a b", "a:-x"] {
            assert_eq!(normalise(bad), None, "{bad:?}");
        }
    }
}
