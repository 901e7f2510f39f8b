//! Words for what is wrong with a namespace and what would end it.

use super::verdict::{Stale, Standing};
use super::{Hold, Pin, PinOf};
use crate::pod::model::NsInode;

/// Holds that are spelled out.
const SPELLED: usize = 3;

/// A leaked one: each hold with what would end it.
pub(super) fn leaked(holds: &[Hold], standings: &[Standing]) -> String {
    let stale = holds.iter().zip(standings).filter_map(|(hold, standing)| match standing {
        Standing::Stale(why) => Some(sentence(hold, *why)),
        Standing::Wanted => None,
    });
    let mut sentences: Vec<_> = stale.collect();
    let more = sentences.len().saturating_sub(SPELLED);
    sentences.truncate(SPELLED);
    if more > 0 {
        sentences.push(format!("{more} more keep it, too."));
    }
    format!("No process is in it. {}", sentences.join(" "))
}

fn sentence(hold: &Hold, why: Stale) -> String {
    match hold {
        Hold::Pin(pin) => pinned(pin, why),
        Hold::Descriptor { holder, fd } => {
            format!("Descriptor {fd} of {holder} keeps it: it ends when that process closes it or ends.")
        }
        Hold::ForChildren { holder } => {
            format!("The next child of {holder} will be in it: it ends when that process ends.")
        }
        Hold::Child { kind, inode } => {
            format!("It owns {} {inode}, which is leaked, too: it ends with that.", kind.name())
        }
    }
}

fn pinned(pin: &Pin, why: Stale) -> String {
    let path = pin.path.display();
    let umount = if pin.here {
        format!("`umount {path}`")
    } else {
        format!(
            "`nsenter -m -t {} umount {path}` (it is in the mount namespace of {})",
            pin.witness.pid, pin.witness
        )
    };
    let short = match &pin.of {
        PinOf::Sandboxd { pod, .. } => pod.short(),
        _ => "",
    };
    match (why, &pin.of) {
        (Stale::PathGone, _) => format!(
            "It is pinned on a file that was unlinked ({path}), in the mount namespace of {}: it ends with that \
             mount namespace {}.",
            pin.witness, pin.mntns
        ),
        (Stale::UnknownPod, _) => {
            format!("{path} pins it for pod {short}, which sandboxd does not know: {umount} ends it.")
        }
        (Stale::DaemonGone, PinOf::Sandboxd { state, .. }) => format!(
            "{path} pins it for pod {short} of a sandboxd that does not run: `sandboxd serve --state {}` takes the \
             pod up again or undoes it, {umount} gives it up.",
            state.display()
        ),
        (Stale::RuntimeGone(runtime), _) => {
            format!("{path} pins it the way {} does, which does not run: {umount} ends it.", runtime.name())
        }
        (Stale::DaemonGone | Stale::Stranger | Stale::LeakedChild, _) => {
            format!("{path} pins it: {umount} ends it.")
        }
    }
}

/// No process was seen in it, which says little.
pub(super) fn unsure(hidden: usize) -> String {
    format!("No process was seen in it, but the namespaces of {hidden} could not be read: it may be leaked.")
}

pub(super) fn wrong_owner(owner: NsInode, own: NsInode, initial: bool) -> String {
    let of = if initial { "the host's".to_owned() } else { format!("user namespace {owner}") };
    format!(
        "It is owned by {of}, not by the pod's own user namespace {own}: the pod may not mount sysfs. A handler \
         with flow = \"runtime-first\" makes the user namespace first."
    )
}
