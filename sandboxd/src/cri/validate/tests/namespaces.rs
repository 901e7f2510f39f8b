//! Namespace modes and id mappings.

use super::*;

#[test]
fn namespaces() {
    const O: &str = "config.linux.security_context.namespace_options";
    let cases: &[Change<cri::NamespaceOption, Why>] = &[
        (
            |o| o.network = NamespaceMode::Container.into(),
            "network",
            "\"CONTAINER\"",
            Why::NamespaceContainer,
        ),
        (|o| o.network = NamespaceMode::Target.into(), "network", "\"TARGET\"", Why::NamespaceTarget),
        (|o| o.ipc = NamespaceMode::Container.into(), "ipc", "\"CONTAINER\"", Why::NamespaceContainer),
        (|o| o.pid = NamespaceMode::Target.into(), "pid", "\"TARGET\"", Why::NamespaceTarget),
        (|o| o.pid = 7, "pid", "7", Why::UnknownEnum),
        (|o| o.target_id = "abc".into(), "target_id", "\"abc\"", Why::TargetId),
        (|o| o.network = NamespaceMode::Node.into(), "network", "\"NODE\"", Why::UsernsOnNodeNetwork),
        (|o| o.pid = NamespaceMode::Node.into(), "pid", "\"NODE\"", Why::UsernsOnNodePid),
        (|o| o.ipc = NamespaceMode::Node.into(), "ipc", "\"NODE\"", Why::UsernsOnNodeIpc),
    ];
    for (change, name, value, why) in cases {
        let mut c = config();
        change(options(&mut c));
        let error = validate(c).expect_err(name);
        assert_eq!(error, Invalid { field: format!("{O}.{name}"), value: (*value).into(), why: why.clone() });
    }
    let mut c = config();
    options(&mut c).pid = NamespaceMode::Container.into();
    assert!(validate(c).is_ok());
}

#[test]
fn mappings() {
    let gids = |gids: Vec<_>| cri::UserNamespace { gids, ..userns(vec![map(0, 1000, 10)]) };
    let mode = |mode: i32| cri::UserNamespace { mode, ..userns(vec![map(0, 1000, 10)]) };
    for (options, name, value, word) in [
        (userns(vec![]), "uids", "[]", "exactly one"),
        (userns(vec![map(0, 1, 1), map(1, 2, 1)]), "uids", "[\"0 1 1\", \"1 2 1\"]", "exactly one"),
        (userns(vec![map(1, 1000, 10)]), "uids", "[\"1 1000 10\"]", "id 0"),
        (userns(vec![map(0, 1000, 0)]), "uids", "[\"0 1000 0\"]", "nothing"),
        (userns(vec![map(0, u32::MAX, 1)]), "uids", "[\"0 4294967295 1\"]", "beyond"),
        (userns(vec![map(0, 4_294_901_760, 65_536)]), "uids", "[\"0 4294901760 65536\"]", "beyond"),
        (gids(vec![map(0, 1000, 11)]), "gids", "[\"0 1000 11\"]", "[\"0 1000 10\"]"),
        (gids(vec![map(0, 1001, 10)]), "gids", "[\"0 1001 10\"]", "equal"),
        (gids(vec![]), "gids", "[]", "exactly one"),
        (mode(NamespaceMode::Node.into()), "uids", "[\"0 1000 10\"]", "maps nothing"),
        (mode(NamespaceMode::Container.into()), "mode", "\"CONTAINER\"", "POD"),
        (mode(NamespaceMode::Target.into()), "mode", "\"TARGET\"", "POD"),
        (mode(9), "mode", "9", "enum"),
    ] {
        let error = mapped(options).expect_err(name);
        let field = format!("config.linux.security_context.namespace_options.userns_options.{name}");
        assert_eq!((error.field, error.value.as_str()), (field, value));
        assert!(error.why.to_string().contains(word), "{}", error.why);
    }
    let node = cri::UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() };
    assert_eq!(mapped(node).expect("valid").namespaces.user, None);
    // kubelet without a subuid file picked this base; and the highest range there is.
    for (host, length) in
        [(4_221_435_904, 65_536), (4_294_901_760, 65_535), (4_294_967_294, 1), (0, u32::MAX)]
    {
        assert!(mapped(userns(vec![map(0, host, length)])).is_ok(), "{host} {length}");
    }
}
