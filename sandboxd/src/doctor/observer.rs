//! The observer: which rung of its ladder loads on this kernel, found out by loading it.

use std::sync::Arc;

use super::Check;
use crate::config::Config;
use crate::observer::{Attribution, Bounds, Observer, ObserverSettings, State, Status};

const NAME: &str = "observer";

pub(super) fn check(config: &Config, running: Option<&Observer>) -> Check {
    let settings =
        ObserverSettings { history: Bounds { checks: 1, ..Bounds::default() }, ..config.observer.settings() };
    let status = match running {
        Some(observer) => observer.status(),
        None => Observer::start(&settings, Arc::new(Attribution::default())).status(),
    };
    verdict(&status)
}

fn verdict(status: &Status) -> Check {
    let remedy = match status.state {
        State::Running(rung) => {
            let named = |d: &crate::observer::Degradation| d.message();
            if status.degradations.is_empty() {
                return Check::ok(
                    NAME,
                    format!("the {} program on cap_capable loads and attaches", rung.name()),
                );
            }
            let steps = status.degradations.iter().map(named).collect::<Vec<_>>().join("; ");
            return Check::warn(
                NAME,
                format!("running on {}, but {steps}", rung.name()),
                "use a newer kernel",
            );
        }
        State::Disabled => "set observer.enabled = true",
        State::NotBuiltIn => "build with the default features, after `cargo xtask build-ebpf`",
        State::Unavailable => {
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y and the cap_capable tracepoint, and give the daemon CAP_BPF and CAP_PERFMON"
        }
    };
    Check::warn(NAME, format!("{}: denials are explained by ownership alone", status.message), remedy)
}
