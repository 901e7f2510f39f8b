//! Which devices a container may open or make: the devices controller on v1, a BPF program on v2.
//!
//! Nothing is allowed but what is listed: the devices that every container has, and those asked for.

use std::fmt::Write as _;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::bpf;
use super::error::CgroupError;
use super::files::put;
use super::layout::Layout;
use super::path::Planned;

/// Block and character devices, as `bpf_cgroup_dev_ctx` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    Block = 1,
    Char = 2,
}

/// Bits of [`Rule::access`], as `bpf_cgroup_dev_ctx` numbers them.
pub(super) const MKNOD: u16 = 1;
pub(super) const READ: u16 = 2;
pub(super) const WRITE: u16 = 4;
const ALL: u16 = MKNOD | READ | WRITE;

/// Devices that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// `None`: both.
    pub kind: Option<Kind>,
    /// `None`: every one.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u16,
}

/// Every device node may be made; these may be used too: null, zero, full, random, urandom, tty, console,
/// ptmx and the terminals of devpts (runc's list).
const DEFAULTS: [Rule; 11] = [
    Rule { kind: Some(Kind::Char), major: None, minor: None, access: MKNOD },
    Rule { kind: Some(Kind::Block), major: None, minor: None, access: MKNOD },
    char_device(1, Some(3)),
    char_device(1, Some(5)),
    char_device(1, Some(7)),
    char_device(1, Some(8)),
    char_device(1, Some(9)),
    char_device(5, Some(0)),
    char_device(5, Some(1)),
    char_device(5, Some(2)),
    char_device(136, None),
];

const fn char_device(major: u32, minor: Option<u32>) -> Rule {
    Rule { kind: Some(Kind::Char), major: Some(major), minor, access: ALL }
}

/// The devices of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(pub(super) Option<Vec<Rule>>);

impl Devices {
    /// Every device there is: a privileged container.
    #[must_use]
    pub fn all() -> Self {
        Self(None)
    }

    /// Those that every container has.
    #[must_use]
    pub fn defaults() -> Self {
        Self(Some(DEFAULTS.to_vec()))
    }

    /// `linux.resources.devices` of an OCI specification, in its order, and the defaults. A rule that denies
    /// everything clears what stands before it, as runtimes read it; nothing else needs to be denied, for
    /// what is not allowed is denied.
    ///
    /// # Errors
    /// For a rule that denies some devices, or one that says nothing.
    pub fn of(rules: &[LinuxDeviceCgroup]) -> Result<Self, CgroupError> {
        let mut allowed = Vec::new();
        let mut all = false;
        for asked in rules {
            let rule = rule(asked)?;
            let everything = Rule { kind: None, major: None, minor: None, access: ALL };
            match (asked.allow(), rule == everything) {
                (true, true) => all = true,
                (true, false) => allowed.push(rule),
                (false, true) => {
                    all = false;
                    allowed.clear();
                }
                (false, false) => return Err(bad(asked, "only everything can be denied")),
            }
        }
        if all {
            return Ok(Self::all());
        }
        allowed.extend(DEFAULTS);
        Ok(Self(Some(allowed)))
    }
}

fn bad(rule: &LinuxDeviceCgroup, problem: &'static str) -> CgroupError {
    CgroupError::DeviceRule { rule: rule.to_string(), problem }
}

fn rule(asked: &LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let kind = match asked.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Char),
        LinuxDeviceType::P => return Err(bad(asked, "a pipe is no device")),
    };
    // -1 is the specification's other way to say "every one".
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| bad(asked, "its numbers are out of range")),
    };
    let (major, minor) = (number(asked.major())?, number(asked.minor())?);
    let mut access = 0;
    for letter in asked.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(bad(asked, "its access is made of the letters r, w and m")),
        };
    }
    if access == 0 {
        return Err(bad(asked, "its access is made of the letters r, w and m"));
    }
    Ok(Rule { kind, major, minor, access })
}

/// Sets the devices of a cgroup that was just made.
pub(super) fn set(layout: &Layout, cgroup: &Planned, devices: &Devices) -> Result<(), CgroupError> {
    // A new cgroup may use what its parent may.
    let Some(rules) = &devices.0 else { return Ok(()) };
    if let Some(hierarchy) = layout.v1_of("devices") {
        return set_v1(&cgroup.below(&hierarchy.mount), rules);
    }
    match &layout.v2 {
        Some(mount) => bpf::attach(&cgroup.below(mount), rules),
        None => Err(CgroupError::NoController {
            controller: "devices".to_owned(),
            file: "devices.deny".to_owned(),
            value: "a".to_owned(),
            layout: layout.name(),
            dir: cgroup.path().into(),
        }),
    }
}

fn set_v1(dir: &Path, rules: &[Rule]) -> Result<(), CgroupError> {
    put(&dir.join("devices.deny"), "a")?;
    let allow = dir.join("devices.allow");
    rules.iter().try_for_each(|rule| text(rule).iter().try_for_each(|line| put(&allow, line)))
}

/// A rule as devices.allow takes it. Its "a" means everything with every access, so both kinds are two lines.
fn text(rule: &Rule) -> Vec<String> {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let kinds = match rule.kind {
        Some(kind) => vec![kind],
        None => vec![Kind::Block, Kind::Char],
    };
    let line = |kind| {
        let letter = if kind == Kind::Block { 'b' } else { 'c' };
        let mut line = format!("{letter} {}:{} ", number(rule.major), number(rule.minor));
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if rule.access & bit != 0 {
                let _ = line.write_char(letter);
            }
        }
        line
    };
    kinds.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(allow: bool, typ: LinuxDeviceType, numbers: (i64, i64), access: &str) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow);
        rule.set_typ(Some(typ));
        rule.set_major(Some(numbers.0));
        rule.set_minor(Some(numbers.1));
        rule.set_access(Some(access.to_owned()));
        rule
    }

    #[test]
    fn rules_of_a_specification() {
        let deny = asked(false, LinuxDeviceType::A, (-1, -1), "rwm");
        let fuse = asked(true, LinuxDeviceType::C, (10, 229), "rw");
        let Devices(Some(rules)) = Devices::of(&[fuse.clone(), deny.clone(), fuse]).unwrap() else {
            panic!("everything allowed")
        };
        assert_eq!(rules.len(), 1 + DEFAULTS.len());
        assert_eq!(text(&rules[0]), ["c 10:229 rw"]);
        assert_eq!(text(&Rule { kind: None, ..rules[1] }), ["b *:* m", "c *:* m"]);
        assert_eq!(Devices::of(&[]).unwrap(), Devices::defaults());
        let all = asked(true, LinuxDeviceType::A, (-1, -1), "rwm");
        assert_eq!(Devices::of(&[deny, all]).unwrap(), Devices::all());
        for wrong in [
            asked(false, LinuxDeviceType::C, (1, 3), "w"),
            asked(true, LinuxDeviceType::P, (1, 3), "w"),
            asked(true, LinuxDeviceType::C, (-2, 3), "w"),
            asked(true, LinuxDeviceType::C, (1, 3), "x"),
            asked(true, LinuxDeviceType::C, (1, 3), ""),
        ] {
            assert!(matches!(Devices::of(&[wrong]), Err(CgroupError::DeviceRule { .. })));
        }
    }
}
