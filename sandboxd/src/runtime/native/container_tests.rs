use oci_spec::runtime::{LinuxNamespace, Mount};

use super::*;

fn device(json: &str) -> LinuxDevice {
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_device_of_the_spec_takes_the_place_of_a_usual_one() {
    let null = device(r#"{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 8612}"#);
    let disk = device(r#"{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "uid": 5, "gid": 6}"#);
    let nodes = devices([null, disk].iter()).unwrap();
    assert_eq!(nodes.len(), DEVICES.len() + 1);
    let node = |path: &str| nodes.iter().find(|node| node.path == path).unwrap();
    // Of the mode, the permissions.
    assert_eq!(node("/dev/null").mode, 0o644);
    assert_eq!((node("/dev/sda").kind, node("/dev/sda").uid, node("/dev/sda").gid), (NodeKind::Block, 5, 6));
    let error = devices([device(r#"{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}"#)].iter());
    assert!(error.unwrap_err().to_string().contains("/dev/x"));
}

#[test]
fn parts_of_a_spec_nobody_carries_out_are_refused_by_name() {
    let parts = |change: fn(&mut Spec, &mut Linux)| {
        let (mut spec, mut linux) = (Spec::default(), Linux::default());
        linux.set_namespaces(None);
        change(&mut spec, &mut linux);
        refuse(&spec, &linux).map_err(|error| error.to_string())
    };
    assert_eq!(parts(|_, _| {}), Ok(()));
    let hooks = parts(|spec, _| {
        let mut hooks = Hooks::default();
        hooks.set_create_container(Some(Vec::new()));
        spec.set_hooks(Some(hooks));
    });
    assert!(hooks.unwrap_err().contains("hooks"));
    let sysctl = parts(|_, linux| {
        linux.set_sysctl(Some([("net.core.somaxconn".to_owned(), "1".to_owned())].into()));
    });
    assert!(sysctl.unwrap_err().contains("sysctls"));
    let joined = parts(|_, linux| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(LinuxNamespaceType::Network).set_path(Some("/proc/1/ns/net".into()));
        linux.set_namespaces(Some(vec![namespace]));
    });
    assert!(joined.unwrap_err().contains("/proc/1/ns/net"));
}

#[test]
fn a_command_is_whole_or_refused() {
    let of = |change: fn(&mut OciProcess)| {
        let mut process = OciProcess::default();
        change(&mut process);
        command(&process, &RawEnv::new(), None).map_err(|error| error.to_string())
    };
    assert_eq!(of(|_| {}).unwrap().args, ["sh"]);
    let label = of(|process| {
        process.set_apparmor_profile(Some("web".into()));
    });
    assert_eq!(label.unwrap().label.as_deref(), Some("exec web"));
    let label = of(|process| {
        process.set_selinux_label(Some("u:r:t:s0".into()));
    });
    assert_eq!(label.unwrap().label.as_deref(), Some("u:r:t:s0"));
    let both = of(|process| {
        process.set_apparmor_profile(Some("web".into())).set_selinux_label(Some("u:r:t:s0".into()));
    });
    assert!(both.unwrap_err().contains("AppArmor"));
    let relative = of(|process| {
        process.set_cwd("work".into());
    });
    assert!(relative.unwrap_err().contains("\"work\""));
    let nul = of(|process| {
        process.set_env(Some(vec!["A=\0".into()]));
    });
    assert!(nul.unwrap_err().contains("NUL"));
    let empty = of(|process| {
        process.set_args(Some(Vec::new()));
    });
    assert!(empty.unwrap_err().contains("arguments"));
}

#[test]
fn values_that_are_no_text_are_passed_on_by_name() {
    let mut process = OciProcess::default();
    let env = ["TEXT=\u{fffd}", "KEY=a=\u{fffd}\n", "DEVICE=the device's", "KEYS=x", "=KEY"];
    process.set_env(Some(env.map(str::to_owned).into()));
    let raw_env = RawEnv::from([
        ("KEY".to_owned(), b"a=\xff\n".to_vec()),
        ("DEVICE".to_owned(), vec![0xff]),
        ("GONE".to_owned(), vec![0xff]),
    ]);
    let made = command(&process, &raw_env, None).unwrap();
    assert_eq!(
        made.env,
        [c"TEXT=\u{fffd}", c"KEY=a=\xff\n", c"DEVICE=the device's", c"KEYS=x", c"=KEY"].map(CString::from)
    );
    process.set_env(Some(vec!["KEY=\u{fffd}\0".to_owned()]));
    let nul = RawEnv::from([("KEY".to_owned(), b"\xff\0".to_vec())]);
    assert!(command(&process, &nul, None).unwrap_err().to_string().contains("NUL"));
}

#[test]
fn binds_take_no_options_of_a_file_system_and_nothing_is_mounted_on_the_root() {
    let context = Context { cgroups: &[], user: None, label: None };
    let make = |destination: &str, typ: &str, options: &[&str]| {
        let mut mount = Mount::default();
        mount
            .set_destination(destination.into())
            .set_typ(Some(typ.into()))
            .set_source(Some("/".into()))
            .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
        mounts::mount(&mount, None, &context, &mut Descriptors::default()).map_err(|error| error.to_string())
    };
    assert!(make("/x", "bind", &["size=1k"]).unwrap_err().contains("size"));
    assert!(make("/", "tmpfs", &[]).unwrap_err().contains("\"/\""));
    assert!(make("x", "tmpfs", &[]).unwrap_err().contains("\"x\""));
    assert!(make("/x", "tmpfs", &["idmap"]).unwrap_err().contains("idmapped"));
    assert!(make("/x", "tmpfs", &["size=1k", "ro"]).is_ok());
}
