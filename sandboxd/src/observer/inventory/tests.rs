//! What needs no other process; the rest is in `tests/inventory.rs`.

use super::*;

#[test]
fn the_initial_namespaces_are_the_hosts_and_in_use() {
    let inventory = Inventory::read(&Context::default());
    let user = inventory.get(NsInode(0xEFFF_FFFD)).expect("the initial user namespace, or a container");
    assert!(user.host && user.state == State::InUse, "{user:?}");
    assert_eq!(user.uid_map.first().map(|map| (map.0, map.1)), Some((0, 0)));
    assert_eq!(inventory.namespaces[0].inode, user.inode, "owners come first");
}

#[test]
fn owners_come_before_what_they_own() {
    let inventory = Inventory::read(&Context::default());
    let mut before = HashSet::new();
    for found in &inventory.namespaces {
        if let Some(owner) = found.owner {
            let known = inventory.get(owner).is_some();
            assert!(!known || before.contains(&owner), "{found:?}");
        }
        before.insert(found.inode);
    }
}

#[test]
fn limits_are_kept_and_said() {
    let limits = Limits { namespaces: 3, ..Limits::default() };
    let inventory = Inventory::read(&Context { limits, ..Context::default() });
    // Owners are added whatever the limit: there are 32 above a namespace at most.
    assert!(inventory.namespaces.len() < 3 + 33, "{}", inventory.namespaces.len());
    assert!(inventory.missing.iter().any(|m| m.name() == "namespaces.too_many_namespaces"), "{inventory:?}");
}
