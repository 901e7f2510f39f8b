use std::fs;

use super::*;

const JSON: &str = r#"{
  "cdiVersion": "0.6.0", "kind": "example.com/gpu", "annotations": {"a": "b"},
  "containerEdits": {"env": ["GENERAL=1"]},
  "devices": [
    {"name": "0", "containerEdits": {
      "env": ["GPU=0"],
      "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero", "permissions": "rw"},
                      {"path": "/dev/made", "type": "c", "major": 10, "minor": 229, "uid": 7}],
      "mounts": [{"hostPath": "/usr/lib", "containerPath": "/gpu//lib", "options": ["ro", "bind"]}],
      "additionalGids": [0, 44]}},
    {"name": "1", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/ldcache", "args": []}]}},
    {"name": "2", "containerEdits": {"netDevices": [{"hostInterfaceName": "eth0", "name": "eth1"}]}}
  ]
}"#;
const YAML: &str = "cdiVersion: 1.0.0\nkind: example.com/nic\ndevices:\n- name: \"0\"\n  containerEdits:\n    env:\n    - NIC=0\n    intelRdt:\n      closID: x\n- name: all\n  containerEdits:\n    env: [NIC=all]\n";

fn of(names: &[&str], directories: &[&Path], user: &User) -> Result<Edits, String> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    edits(&names, directories, user).map_err(|error| error.to_string())
}

// cri: ContainerConfig.CDI_devices
#[test]
fn devices_are_found_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("gpu.json"), JSON).unwrap();
    fs::write(dir.path().join("nic.yaml"), YAML).unwrap();
    let user = User { uid: 5, gid: 0, ..User::default() };
    let edits = of(&["example.com/gpu=0", "example.com/nic=all"], &[dir.path()], &user).unwrap();
    assert_eq!(edits.env, ["GPU=0", "GENERAL=1", "NIC=all"]);
    assert_eq!(edits.gids, [44]);
    assert_eq!(edits.mounts[0].destination(), Path::new("/gpu/lib"));
    let nodes: Vec<_> = edits
        .devices
        .0
        .iter()
        .map(|(d, p)| (d.path().to_str().unwrap(), d.major(), d.minor(), d.uid(), p.as_str()))
        .collect();
    assert_eq!(nodes, [("/dev/gpu0", 1, 5, Some(5), "rw"), ("/dev/made", 10, 229, Some(7), "rwm")]);
}

#[test]
fn yaml_has_modes_in_octal() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, expected) in [("0640", 0o640), ("0o640", 0o640), ("416", 416)] {
        let yaml = format!(
            "cdiVersion: 1.0.0\nkind: example.com/nic\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - \
             path: /dev/zero\n      fileMode: {mode}\n"
        );
        fs::write(dir.path().join("nic.yaml"), yaml).unwrap();
        let edits = of(&["example.com/nic=0"], &[dir.path()], &User::default()).unwrap();
        assert_eq!(edits.devices.0[0].0.file_mode(), Some(expected), "{mode}");
    }
}

#[test]
fn what_is_not_there_or_cannot_be_done_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("gpu.json"), JSON).unwrap();
    fs::write(dir.path().join("nic.yml"), YAML).unwrap();
    let user = User::default();
    let error = |name: &str| of(&[name], &[dir.path()], &user).unwrap_err();
    assert!(error("example.com/gpu=9").contains("\"example.com/gpu=9\""));
    assert!(error("example.com/gpu=1").contains("the hook /bin/ldcache (createContainer)"));
    assert!(error("example.com/gpu=2").contains("netDevices"));
    assert!(error("example.com/nic=0").contains("intelRdt"));
    for (name, text) in [
        ("a.json", "{".to_owned()),
        ("b.json", JSON.replace("0.6.0", "9.0.0")),
        ("c.json", JSON.replace("\"env\": [\"GENERAL=1\"]", "\"later\": 1")),
        ("d.yaml", "kind: [".to_owned()),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
        let words = error("example.com/gpu=9");
        assert!(words.contains(name), "{words}");
        assert!(words.len() < 2000);
    }
}

#[test]
fn later_directories_take_precedence() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("x.json"), JSON).unwrap();
    let newer = JSON.replace("GPU=0", "GPU=newer");
    fs::write(other.path().join("x.json"), &newer).unwrap();
    let user = User::default();
    let name = "example.com/gpu=0";
    let edits = of(&[name], &[one.path(), other.path()], &user).unwrap();
    assert_eq!(edits.env, ["GPU=newer", "GENERAL=1"]);
    assert!(of(&[name], &[Path::new("/no/such"), one.path()], &user).is_ok());
    fs::write(other.path().join("y.json"), &newer).unwrap();
    assert!(of(&[name], &[one.path(), other.path()], &user).unwrap_err().contains("described twice"));
}
