use std::collections::BTreeSet;

use super::*;

#[test]
fn every_check_is_named_once_and_says_what_to_do() {
    let checks = examine(&Config::default(), None);
    let names: BTreeSet<_> = checks.iter().map(|c| c.name).collect();
    assert_eq!(names.len(), checks.len());
    for check in &checks {
        assert!(!check.reason.is_empty(), "{}", check.name);
        assert_eq!(check.remedy.is_empty(), check.verdict == Verdict::Ok, "{}", check.name);
    }
}

fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|c| c.name == name).expect("there")
}

#[test]
fn an_empty_node_is_told_what_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = Config::default();
    config.cni.conf_dir = dir.path().into();
    config.cni.bin_dirs = vec![dir.path().into()];
    let checks = examine(&config, None);
    assert_eq!(check(&checks, "cni config").verdict, Verdict::Fail);

    let conf =
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#;
    std::fs::write(dir.path().join("10-n.conflist"), conf).expect("written");
    std::fs::write(dir.path().join("00-readme.txt"), "").expect("written");
    let checks = examine(&config, None);
    assert_eq!(check(&checks, "cni config").verdict, Verdict::Ok);
    assert!(check(&checks, "cni plugins").reason.ends_with("bridge, host-local"), "{checks:?}");
}

#[test]
fn a_bad_configuration_fails() {
    let config = Config { root: "var".into(), ..Config::default() };
    let checks = examine(&config, None);
    assert!(check(&checks, "config").reason.contains("root = \"var\""));
    assert_eq!(check(&checks, "config").verdict, Verdict::Fail);
}

#[test]
fn both_forms_carry_every_check() {
    let checks = [Check::ok("a", "fine"), Check::fail("bcd", "broken", "mend it")];
    let text = to_text(&checks);
    assert_eq!(
        text,
        "ok    a    fine\nFAIL  bcd  broken\n           -> mend it\n2 checks, 0 warnings, 1 failures\n"
    );
    let json: serde_json::Value = serde_json::from_str(&to_json(&checks).expect("json")).expect("parses");
    assert_eq!(json[1]["verdict"], "fail");
}
