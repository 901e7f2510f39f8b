//! Who may act. Everybody who can open a console's connection reads; acting takes root, membership of the
//! operators' group, or a certificate of the operators' organization.

use tonic::{Extensions, Status};

use super::peer::Peer;
use crate::config;
use sandboxd_api::console as api;

/// Where the audit lines go: a target of its own, so that a log filter can keep them.
const AUDIT: &str = "sandboxd::audit";

/// Who the operators are.
#[derive(Debug, Clone, Default)]
pub struct Operators {
    /// Name and gid.
    pub group: Option<(String, u32)>,
    /// Of a certificate's subject; empty: no certificate may act.
    pub organization: String,
}

/// Somebody who asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub identity: String,
    /// Why it may not act; `None`: it may.
    pub why_not: Option<String>,
}

impl Operators {
    /// # Errors
    /// The group's name, where this machine has no such group.
    pub fn of(config: &config::Console) -> Result<Self, String> {
        let name = &config.operator_group;
        let group = match name.as_str() {
            "" => None,
            name => match nix::unistd::Group::from_name(name) {
                Ok(Some(group)) => Some((name.to_owned(), group.gid.as_raw())),
                _ => return Err(name.to_owned()),
            },
        };
        Ok(Self { group, organization: config.operator_organization.clone() })
    }

    /// Who sent a request.
    #[must_use]
    pub fn caller(&self, request: &Extensions) -> Caller {
        self.judge(request.get::<Peer>().unwrap_or(&Peer::Unknown))
    }

    fn judge(&self, peer: &Peer) -> Caller {
        match peer {
            Peer::Process { uid, gid, groups } => {
                let identity = format!("uid {uid}");
                let why_not = match &self.group {
                    _ if *uid == 0 => None,
                    Some((_, operators)) if gid == operators || groups.contains(operators) => None,
                    Some((name, _)) => Some(format!(
                        "{identity} is not in the group {name:?} (console.operator_group): add it with \
                         `usermod -aG {name} USER`, log in anew and connect again, or act as root"
                    )),
                    None => Some(format!(
                        "{identity} is not root, and console.operator_group names no group of operators: \
                         set it, or act as root"
                    )),
                };
                Caller { identity, why_not }
            }
            Peer::Certificate { common_name, organizations } => {
                let wanted = &self.organization;
                let operator = !wanted.is_empty() && organizations.contains(wanted);
                let why_not = (!operator).then(|| match wanted.as_str() {
                    "" => "console.operator_organization is empty, so that no certificate may act: set it, or act \
                           on the node as root"
                        .to_owned(),
                    wanted => format!(
                        "the certificate of {common_name:?} has the organization {organizations:?}, not {wanted:?} \
                         (console.operator_organization): use one with O={wanted} in its subject"
                    ),
                });
                Caller { identity: common_name.clone(), why_not }
            }
            Peer::Unknown => Caller {
                identity: "unknown".to_owned(),
                why_not: Some("it is not known who asks: connect to the console's socket as root".to_owned()),
            },
        }
    }
}

impl Caller {
    /// As a snapshot says it.
    #[must_use]
    pub(super) fn access(&self) -> api::Access {
        api::Access {
            may_act: self.why_not.is_none(),
            identity: self.identity.clone(),
            why_not: self.why_not.clone().unwrap_or_default(),
        }
    }

    /// Lets an operator pass.
    ///
    /// # Errors
    /// PERMISSION_DENIED for everybody else, who is written down as well.
    pub fn must_act(&self, action: &'static str, object: &str) -> Result<(), Status> {
        let Some(why_not) = &self.why_not else { return Ok(()) };
        tracing::warn!(target: AUDIT, identity = %self.identity, action, object, "denied");
        Err(Status::permission_denied(format!("{action} is for operators: {why_not}")))
    }

    /// Writes down what an operator did, and how it went.
    pub fn audit<T>(&self, action: &'static str, object: &str, done: &Result<T, Status>) {
        let identity = &self.identity;
        match done {
            Ok(_) => tracing::info!(target: AUDIT, %identity, action, object, "done"),
            Err(status) => {
                let (code, error) = (status.code(), status.message());
                tracing::warn!(target: AUDIT, %identity, action, object, ?code, error, "failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer::Process { uid, gid, groups: groups.to_vec() }
    }

    fn certificate(organizations: &[&str]) -> Peer {
        let organizations = organizations.iter().map(|&o| o.to_owned()).collect();
        Peer::Certificate { common_name: "ann".into(), organizations }
    }

    #[test]
    fn root_and_the_group_of_operators_may_act() {
        let operators = Operators { group: Some(("ops".into(), 77)), organization: String::new() };
        for peer in [process(0, 5, &[]), process(1000, 77, &[]), process(1000, 5, &[4, 77])] {
            assert_eq!(operators.judge(&peer).why_not, None, "{peer:?}");
        }
        let caller = operators.judge(&process(1000, 5, &[4]));
        let denied = caller.must_act("StopPod", "web").unwrap_err();
        assert_eq!(denied.code(), tonic::Code::PermissionDenied);
        for word in ["StopPod", "uid 1000", "\"ops\"", "usermod"] {
            assert!(denied.message().contains(word), "{denied}");
        }
        assert!(!caller.access().may_act);
        let nobody = Operators::default();
        assert!(nobody.judge(&process(1000, 77, &[77])).why_not.is_some());
        assert!(nobody.judge(&Peer::Unknown).why_not.is_some());
    }

    #[test]
    fn a_certificate_acts_by_its_organization() {
        let operators = Operators { group: None, organization: "sandboxd:operators".into() };
        let caller = operators.judge(&certificate(&["others", "sandboxd:operators"]));
        assert_eq!(caller, Caller { identity: "ann".into(), why_not: None });
        let why = operators.judge(&certificate(&["sandboxd:readers"])).why_not.unwrap();
        assert!(why.contains("\"ann\"") && why.contains("O=sandboxd:operators"), "{why}");
        let none = Operators::default();
        assert!(none.judge(&certificate(&[""])).why_not.is_some(), "an empty setting matches no empty name");
    }
}
