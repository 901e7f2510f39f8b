//! Which manifest of an index is this machine's.

use crate::manifest::Platform;

/// An architecture and its variant, in Go's words.
type Machine = (&'static str, &'static str);

/// What this machine runs, best first: its own architecture's baseline, its older and newer variants, and what
/// the processor runs besides.
pub(super) fn machines() -> Vec<Machine> {
    match std::env::consts::ARCH {
        "x86_64" => {
            let mut all = vec![("amd64", "")];
            all.extend(amd64_levels());
            all.push(("386", ""));
            all
        }
        "aarch64" => {
            vec![("arm64", "v8"), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")]
        }
        "arm" => vec![("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
        "x86" => vec![("386", "")],
        "powerpc64" => vec![("ppc64le", "")],
        "loongarch64" => vec![("loong64", "")],
        "mips64" => vec![("mips64le", "")],
        other => vec![(other, "")],
    }
}

/// The levels above the baseline that the processor has.
#[cfg(target_arch = "x86_64")]
fn amd64_levels() -> Vec<Machine> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v3 =
        v2 && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma") && has!("lzcnt");
    let v4 =
        v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    [(v2, "v2"), (v3, "v3"), (v4, "v4")]
        .into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, v)| ("amd64", v))
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_levels() -> Vec<Machine> {
    Vec::new()
}

/// A variant that says no more than its absence.
fn plain<'a>(architecture: &str, variant: &'a str) -> &'a str {
    match (architecture, variant) {
        ("amd64", "v1") | ("arm64", "v8" | "8") => "",
        ("arm", "" | "7") => "v7",
        ("arm", "8") => "v8",
        ("arm", "6") => "v6",
        ("arm", "5") => "v5",
        (_, variant) => variant,
    }
}

fn architecture_of(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        "armhf" => "arm",
        other => other,
    }
}

/// How well this machine runs it: 0 is best; `None`: not at all.
pub(super) fn rank(platform: &Platform) -> Option<usize> {
    if !platform.os.is_empty() && platform.os != "linux" {
        return None;
    }
    let architecture = architecture_of(&platform.architecture);
    if architecture.is_empty() {
        return Some(0);
    }
    let variant = plain(architecture, &platform.variant);
    machines().iter().position(|(a, v)| *a == architecture && plain(a, v) == variant)
}

/// "linux/amd64", "linux/arm/v7"
pub(super) fn words(os: &str, architecture: &str, variant: &str) -> String {
    let os = if os.is_empty() { "linux" } else { os };
    if variant.is_empty() { format!("{os}/{architecture}") } else { format!("{os}/{architecture}/{variant}") }
}

pub(super) fn this_machine() -> String {
    machines().first().map_or_else(String::new, |(architecture, _)| words("linux", architecture, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(os: &str, architecture: &str, variant: &str) -> Platform {
        Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.into(),
            ..Platform::default()
        }
    }

    #[test]
    fn this_machine_first() {
        let (architecture, _) = machines()[0];
        assert_eq!(rank(&of("linux", architecture, "")), Some(0));
        assert_eq!(rank(&of("windows", architecture, "")), None);
        assert_eq!(rank(&of("unknown", "unknown", "")), None);
        assert_eq!(rank(&of("linux", "s390x", "")), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn baseline_before_the_rest() {
        assert_eq!(rank(&of("linux", "amd64", "v1")), Some(0));
        assert_eq!(rank(&of("linux", "x86_64", "")), Some(0));
        assert!(rank(&of("linux", "386", "")) > Some(0));
    }
}
