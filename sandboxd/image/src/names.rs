//! Names of images as people write them.

use crate::reference::{Reference, Version};

/// What a name comes to when it is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// "docker.io/library/busybox:latest"
    Tag(String),
    /// "docker.io/library/busybox@sha256:…"
    Digest(String),
}

/// Writes a name out as pulls do: `busybox` is "docker.io/library/busybox:latest"; of a tag and a digest, the
/// digest counts. `None` where it is no name.
pub(crate) fn normalise(text: &str) -> Option<Name> {
    let reference: Reference = text.parse().ok()?;
    Some(match reference.version() {
        Version::Tag(_) => Name::Tag(reference.to_string()),
        Version::Digest(_) => Name::Digest(reference.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;

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
        assert_eq!(tag("[::1]:5000/x"), "[::1]:5000/x:latest");
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
