use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A node with AppArmor whose parser notes its flags and, where it works, loads what it is given.
struct Fake {
    dir: tempfile::TempDir,
    places: Places,
}

impl Fake {
    fn new(loaded: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("enabled"), "Y\n").unwrap();
        std::fs::write(at("profiles"), loaded).unwrap();
        std::fs::write(at("label"), "unconfined\n").unwrap();
        let places = Places {
            enabled: at("enabled"),
            profiles: at("profiles"),
            abi: at("abi"),
            label: at("label"),
            parser: None,
        };
        Self { dir, places }
    }

    fn with_parser(loaded: &str, script: &str) -> Self {
        let mut fake = Self::new(loaded);
        let parser = fake.dir.path().join("parser");
        std::fs::write(&parser, format!("#!/bin/sh\ncd {}\n{script}\n", fake.dir.path().display())).unwrap();
        std::fs::set_permissions(&parser, std::fs::Permissions::from_mode(0o755)).unwrap();
        fake.places.parser = Some(parser);
        fake
    }

    fn loading(loaded: &str) -> Self {
        Self::with_parser(
            loaded,
            "cat >text; echo $1 >>flags\n[ $1 = -KQ ] || sed -n 's/^profile \\([^ ]*\\) .*/\\1 (enforce)/p' text >>profiles",
        )
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn start(&self) -> AppArmor {
        AppArmor::start_in(self.places.clone())
    }
}

#[test]
fn the_default_profiles_are_loaded_at_the_start() {
    let fake = Fake::loading("web (enforce)\n");
    assert_eq!(fake.start().support(), &Support::WithDefault);
    assert_eq!(fake.read("flags"), "-Kr\n");
    let names = "web (enforce)\nsandboxd-default (enforce)\nsandboxd-default-userns (enforce)\n";
    assert_eq!(fake.read("profiles"), names);
}

#[test]
fn where_apparmor_is_off_nothing_is_loaded() {
    let fake = Fake::loading("");
    std::fs::write(&fake.places.enabled, "N\n").unwrap();
    let off = fake.start();
    assert_eq!((off.support(), off.support().lacking()), (&Support::Off, None));
    assert_eq!(fake.read("flags"), "");
    assert!(examine_in(&fake.places, false).unwrap().contains("not enabled"));
}

#[test]
fn what_keeps_the_default_profile_from_being_loaded_is_said() {
    let reason = |fake: &Fake| match fake.start().support() {
        Support::WithoutDefault { reason } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert!(reason(&Fake::new("")).contains("install the package apparmor"));
    let failing = Fake::with_parser("", "echo 'no securityfs' >&2; exit 2");
    assert!(reason(&failing).ends_with("exit status: 2: no securityfs"), "{}", reason(&failing));
    let lacking = failing.start().support().lacking().unwrap();
    assert!(lacking.contains("no securityfs") && lacking.contains("unconfined"), "{lacking}");
    let (said, _) = examine_in(&failing.places, true).unwrap_err();
    assert_eq!(said, lacking);
}

#[test]
fn profiles_that_were_loaded_before_do_without_the_parser() {
    let both = "sandboxd-default (enforce)\nsandboxd-default-userns (enforce)\n";
    assert_eq!(Fake::new(both).start().support(), &Support::WithDefault);
    let one = Fake::new("sandboxd-default-userns (enforce)\n").start();
    assert!(matches!(one.support(), Support::WithoutDefault { .. }), "{one:?}");
}

#[tokio::test]
async fn a_profile_that_is_not_loaded_is_not_found() {
    let fake = Fake::new("web (enforce)\nmy app (complain)\n/usr/bin/x//sub (unconfined)\n");
    let apparmor = fake.start();
    for there in ["web", "my app", "/usr/bin/x//sub", "web//&my app", "unconfined", ":other:web"] {
        apparmor.ensure(there).await.unwrap();
    }
    for (asked, missing) in [("we", "we"), ("my", "my"), ("web//&no", "no"), ("/usr/bin/x", "/usr/bin/x")] {
        let error = apparmor.ensure(asked).await.unwrap_err().to_string();
        assert!(error.contains(&format!("apparmor profile not found {missing}: ")), "{error}");
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_read_refuses_nothing() {
    let fake = Fake::new("");
    std::fs::remove_file(&fake.places.profiles).unwrap();
    fake.start().ensure("web").await.unwrap();
}

#[tokio::test]
async fn a_default_profile_that_somebody_removed_is_loaded_again() {
    let fake = Fake::loading("");
    let apparmor = fake.start();
    apparmor.ensure(NAME).await.unwrap();
    assert_eq!(fake.read("flags"), "-Kr\n");
    std::fs::write(&fake.places.profiles, "").unwrap();
    apparmor.ensure(USERNS).await.unwrap();
    assert_eq!(fake.read("flags"), "-Kr\n-Kr\n");
    std::fs::write(&fake.places.profiles, "").unwrap();
    std::fs::remove_file(fake.places.parser.as_ref().unwrap()).unwrap();
    let error = apparmor.ensure(NAME).await.unwrap_err();
    assert!(error.to_string().contains("loading the AppArmor profile sandboxd-default again"), "{error}");
}

#[test]
fn the_doctor_compiles_and_loads_nothing() {
    let fake = Fake::loading("");
    assert!(examine_in(&fake.places, false).unwrap().contains("loaded when the daemon starts"));
    assert_eq!((fake.read("flags"), fake.read("profiles")), ("-KQ\n".into(), String::new()));
    let (said, _) = examine_in(&fake.places, true).unwrap_err();
    assert!(said.contains("the daemon's log"), "{said}");
    let loaded = fake.start();
    assert_eq!(loaded.support(), &Support::WithDefault);
    assert!(examine_in(&fake.places, true).unwrap().contains("is loaded"));
}

#[test]
fn a_confined_daemon_is_named_in_the_profiles() {
    let fake = Fake::new("");
    assert!(!fake.places.text().contains("peer=\""));
    std::fs::write(&fake.places.label, "/usr/bin/sandboxd (enforce)\n").unwrap();
    assert!(fake.places.text().contains("signal (receive) peer=\"/usr/bin/sandboxd\","));
}
