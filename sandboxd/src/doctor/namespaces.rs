//! Namespaces that nobody is in and that belong to nothing: each keeps memory, and a network namespace its
//! addresses.

use super::Check;
use crate::config::Config;
use crate::observer::Observer;
use crate::observer::inventory::{Context, Inventory};

const NAME: &str = "leaked namespaces";
/// Those named one by one.
const NAMED: usize = 3;

/// `running`: of the daemon, where this runs in it: it knows its pods.
pub(super) fn check(config: &Config, running: Option<&Observer>) -> Check {
    let context = match running {
        Some(observer) => {
            Context { pods: Some(observer.attribution()), state: Some(&config.state), ..Context::default() }
        }
        None => Context::default(),
    };
    verdict(&Inventory::read(&context))
}

fn verdict(inventory: &Inventory) -> Check {
    let leaked: Vec<_> = inventory.leaked().collect();
    if leaked.is_empty() {
        let all = inventory.namespaces.len();
        let but =
            inventory.missing.first().map(|missing| format!("; {}", missing.message())).unwrap_or_default();
        return Check::ok(NAME, format!("none of {all} namespaces{but}"));
    }
    let named = leaked.iter().take(NAMED).map(|f| format!("{} {}: {}", f.kind.name(), f.inode, f.message));
    let mut words = named.collect::<Vec<_>>().join(" ");
    if let Some(more @ 1..) = leaked.len().checked_sub(NAMED) {
        words.push_str(&format!(" And {more} more."));
    }
    Check::warn(NAME, words, "`sandboxd namespaces --leaked` lists them with what ends each")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_node_without_leaks_is_fine() {
        let none = Inventory { namespaces: vec![], missing: vec![], read_at_ns: 0, took: Duration::ZERO };
        let check = verdict(&none);
        assert_eq!((check.verdict, check.reason.as_str()), (Verdict::Ok, "none of 0 namespaces"));
    }
}
