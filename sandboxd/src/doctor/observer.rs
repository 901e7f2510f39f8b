//! The observer: which rung of its ladder loads on this kernel, found out by loading it.

use std::sync::Arc;

use sandboxd_api::console as api;

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

/// What the daemon's observer counted since its start; nothing where it sees nothing.
#[must_use]
pub fn counts(observer: &api::Observer) -> Option<Check> {
    const NAME: &str = "observer counts";
    if observer.state() != api::observer::State::Running {
        return None;
    }
    let api::Observer { produced, seen, sampled_out, lost, allowed, denied, failed, .. } = observer;
    let mut words =
        format!("{produced} checks produced = {seen} seen + {sampled_out} sampled out + {lost} lost");
    // In the ring, or waiting for the result of their system call.
    if let Some(waiting @ 1..) = produced.checked_sub(seen + sampled_out + lost) {
        words.push_str(&format!(" + {waiting} not read yet"));
    }
    words.push_str(&format!("; {allowed} allowed, {denied} denied"));
    // Only where results are read; they are among those produced.
    if *failed > 0 {
        words.push_str(&format!(", {failed} calls failed without a denied check"));
    }
    if *lost == 0 {
        return Some(Check::ok(NAME, words));
    }
    let remedy = "the lost ones are in no other count: checks came faster than the daemon could read them; find what \
                  asks so often with `sandboxd events --follow --kind check`, or give the daemon more CPU time";
    Some(Check::warn(NAME, words, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn the_counts_add_up_in_words() {
        let observer = api::Observer {
            state: api::observer::State::Running.into(),
            produced: 18_300,
            seen: 18_204,
            sampled_out: 96,
            allowed: 18_263,
            denied: 37,
            ..api::Observer::default()
        };
        let check = counts(&observer).unwrap();
        assert_eq!(
            (check.verdict, check.reason.as_str()),
            (
                Verdict::Ok,
                "18300 checks produced = 18204 seen + 96 sampled out + 0 lost; 18263 allowed, 37 denied"
            )
        );
        let behind = counts(&api::Observer { produced: 18_310, lost: 7, ..observer.clone() }).unwrap();
        assert_eq!(behind.verdict, Verdict::Warn);
        assert!(behind.reason.contains("+ 7 lost + 3 not read yet;"), "{behind:?}");
        let failed = counts(&api::Observer { failed: 5, allowed: 18_258, ..observer.clone() }).unwrap();
        assert!(failed.reason.ends_with("37 denied, 5 calls failed without a denied check"), "{failed:?}");
        let blind = api::Observer { state: api::observer::State::Disabled.into(), ..observer };
        assert_eq!(counts(&blind), None);
    }
}
