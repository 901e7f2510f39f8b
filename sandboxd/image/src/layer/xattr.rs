//! Which extended attributes of an image a layer gets.

/// Why an attribute is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dropped {
    /// `trusted.*` and `user.overlay.*`: overlayfs's own words. An image could hide or redirect what is in
    /// the layers below with them.
    Overlay,
    /// `security.*` but for capabilities: labels are the node's to give.
    Security,
    /// `system.*` and whatever else.
    Unknown,
    /// Neither a file nor a directory: the kernel has none there.
    NoPlace,
    /// `user.*` on a file system that has none.
    Unsupported,
}

impl Dropped {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "names that mean something to overlayfs",
            Self::Security => "security labels, which are the node's to give",
            Self::Unknown => "names that images do not have",
            Self::NoPlace => "on something that is neither file nor directory",
            Self::Unsupported => "this file system has none",
        }
    }
}

/// Whether an attribute is set.
pub(super) fn admit(name: &[u8], has_place: bool) -> Result<(), Dropped> {
    if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
        return Err(Dropped::Overlay);
    }
    if name != b"security.capability" && name.starts_with(b"security.") {
        return Err(Dropped::Security);
    }
    if name != b"security.capability" && !name.starts_with(b"user.") || name.contains(&0) {
        return Err(Dropped::Unknown);
    }
    if has_place { Ok(()) } else { Err(Dropped::NoPlace) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_and_user_attributes_only() {
        assert_eq!(admit(b"security.capability", true), Ok(()));
        assert_eq!(admit(b"user.comment", true), Ok(()));
        assert_eq!(admit(b"user.comment", false), Err(Dropped::NoPlace));
        assert_eq!(admit(b"trusted.overlay.opaque", true), Err(Dropped::Overlay));
        assert_eq!(admit(b"trusted.anything", true), Err(Dropped::Overlay));
        assert_eq!(admit(b"user.overlay.redirect", true), Err(Dropped::Overlay));
        assert_eq!(admit(b"security.selinux", true), Err(Dropped::Security));
        assert_eq!(admit(b"system.posix_acl_access", true), Err(Dropped::Unknown));
        assert_eq!(admit(b"", true), Err(Dropped::Unknown));
    }
}
