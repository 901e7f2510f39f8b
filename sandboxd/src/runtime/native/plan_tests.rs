use super::*;
use oci_spec::runtime::Hooks;

fn own() -> Namespaces {
    Namespaces { user: None, net: Net::New, pid: true, ipc: true, uts: true, cgroup: true }
}

fn oci_mount(typ: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination("/x".into())
        .set_typ(Some(typ.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

#[test]
fn mount_options_become_attributes_and_options_of_the_file_system() {
    let oci = oci_mount("tmpfs", "tmpfs", &["ro", "nosuid", "nodev", "noexec", "size=1k", "newinstance"]);
    let mount = mount(&oci, &own(), &mut Vec::new()).unwrap();
    assert_eq!(
        mount.attrs,
        Attrs { read_only: true, nosuid: true, nodev: true, noexec: true, recursive: false }
    );
    let options = vec![("size".to_owned(), Some("1k".to_owned())), ("newinstance".to_owned(), None)];
    assert_eq!(mount.source, Source::New { fs: "tmpfs".into(), options });
}

#[test]
fn mount_options_nobody_carries_out_are_refused_by_name() {
    for option in ["shared", "rslave", "nosymfollow", "idmap", "strictatime"] {
        let error = mount(&oci_mount("tmpfs", "tmpfs", &[option]), &own(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains(option), "{error}");
    }
}

#[test]
fn parts_of_a_spec_nobody_carries_out_are_refused_by_name() {
    let parts = |change: fn(&mut Spec, &mut Linux, &mut OciProcess)| {
        let (mut spec, mut linux, mut process) = (Spec::default(), Linux::default(), OciProcess::default());
        linux.set_resources(None);
        // The default has ambient ones.
        process.set_capabilities(None);
        change(&mut spec, &mut linux, &mut process);
        refuse(&spec, &linux, &process).map_err(|error| error.to_string())
    };
    assert_eq!(parts(|_, _, _| {}), Ok(()));
    let hooks = parts(|spec, _, _| {
        spec.set_hooks(Some(Hooks::default()));
    });
    assert!(hooks.unwrap_err().contains("hooks"));
    let label = parts(|_, linux, _| {
        linux.set_mount_label(Some("l".into()));
    });
    assert!(label.unwrap_err().contains("mountLabel"));
    let profile = parts(|_, _, process| {
        process.set_apparmor_profile(Some("p".into()));
    });
    assert!(profile.unwrap_err().contains("AppArmor"));
}

#[test]
fn a_user_namespace_without_a_root_is_refused() {
    let mut linux = Linux::default();
    linux.set_uid_mappings(None).set_gid_mappings(None);
    assert!(maps(&linux).unwrap_err().to_string().contains("map 0"));
}

#[test]
fn the_default_filter_is_compiled_once_and_names_nothing() {
    let mut warnings = Vec::new();
    let first = filter(&seccomp::default::profile(), &mut warnings).unwrap();
    assert_eq!(filter(&seccomp::default::profile(), &mut warnings).unwrap(), first);
    assert!(warnings.is_empty() && !first.is_empty());
}
