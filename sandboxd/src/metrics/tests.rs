//! The page against the rules of the format and of naming, as promtool checks them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonic::metadata::MetadataMap;

use super::*;
use crate::telemetry::{Rpc, Telemetry};

type Labels = BTreeMap<String, String>;

/// One line of the page.
#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

#[derive(Debug)]
struct Family {
    kind: String,
    samples: Vec<Sample>,
}

/// Parses by the grammar of the format; panics at what a scraper would refuse.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line must end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut current) = (None, String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a help");
            assert!(!help.is_empty(), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(helped.take().as_deref(), Some(name), "HELP stands before TYPE");
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} is there twice");
            current = name.to_owned();
        } else {
            let sample = sample(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("{line} has no TYPE"));
            let base = if family.kind == "histogram" {
                let suffixes = ["_bucket", "_sum", "_count"];
                suffixes.iter().find_map(|suffix| sample.name.strip_suffix(suffix)).expect(line)
            } else {
                sample.name.as_str()
            };
            assert_eq!(base, current, "{line} stands under another metric");
            family.samples.push(sample);
        }
    }
    families
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        let mut chars = inner.chars();
        loop {
            let key: String = chars.by_ref().take_while(|c| *c != '=').collect();
            assert!(is_name(&key) && chars.next() == Some('"'), "{line}");
            let mut value = String::new();
            loop {
                match chars.next().expect(line) {
                    '"' => break,
                    '\\' => value.push(match chars.next() {
                        Some('n') => '\n',
                        Some(c @ ('"' | '\\')) => c,
                        other => panic!("{line}: \\{other:?}"),
                    }),
                    c => value.push(c),
                }
            }
            assert!(labels.insert(key, value).is_none(), "{line}: a label twice");
            match chars.next() {
                Some(',') => {}
                Some('}') => break,
                other => panic!("{line}: {other:?}"),
            }
        }
        rest = &line[line.len() - chars.as_str().len()..];
    }
    let value = rest.strip_prefix(' ').expect(line);
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
    assert!(is_name(name), "{line}");
    Sample { name: name.to_owned(), labels, value }
}

/// What promtool's linter asks of names, and Prometheus of values.
fn check(families: &BTreeMap<String, Family>) {
    for (name, family) in families {
        assert!(name.starts_with("sandboxd_"), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}: {}", family.kind);
        assert_eq!(name.ends_with("_info"), name.contains("_info"), "{name}");
        for unit in ["_ms", "_millis", "_ns", "_nanoseconds", "_kb", "_mib"] {
            assert!(!name.contains(unit), "{name}: base units are seconds and bytes");
        }
        let mut seen = BTreeSet::new();
        for sample in &family.samples {
            assert!(seen.insert((&sample.name, &sample.labels)), "twice: {sample:?}");
            assert!(sample.value >= 0.0, "{sample:?}");
        }
        if family.kind == "histogram" {
            check_histogram(name, &family.samples);
        }
    }
}

fn check_histogram(name: &str, samples: &[Sample]) {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for bucket in samples.iter().filter(|s| s.name.ends_with("_bucket")) {
        let mut labels = bucket.labels.clone();
        let le = labels.remove("le").expect("a bucket has a bound");
        let le = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
        series.entry(labels).or_default().push((le, bucket.value));
    }
    assert!(!series.is_empty(), "{name}");
    for (labels, buckets) in series {
        assert!(buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{name} {buckets:?}");
        let last = buckets.last().unwrap();
        let count = samples.iter().find(|s| s.name == format!("{name}_count") && s.labels == labels);
        assert_eq!((last.0, last.1), (f64::INFINITY, count.unwrap().value), "{name}");
        assert!(samples.iter().any(|s| s.name == format!("{name}_sum") && s.labels == labels), "{name}");
    }
}

fn page(figures: &Figures, observer: api::Observer, pods: usize) -> String {
    let node = [api::Degradation { name: "cgroup.v1".into(), message: "a\\b".into() }];
    let counts = PodCounts { allowed: 2, denied: 1, sampled_out: 1 };
    let page = Page {
        version: "1.2.3",
        started_at_ns: 1_700_000_000_500_000_000,
        pods: [("ready", 2)].into(),
        containers: [("running", 3)].into(),
        network_ready: true,
        figures,
        observer,
        kept: 7,
        reasons: vec![("allowed", "", 5), ("denied", "too \"odd\"\n\\", 6)],
        checks: (0..pods).map(|n| ("ns".to_owned(), format!("pod{n:04}"), counts)).collect(),
        node: &node,
    };
    page.text()
}

fn running() -> api::Observer {
    api::Observer {
        state: api::observer::State::Running.into(),
        rung: "tp_btf".into(),
        produced: 100,
        seen: 60,
        sampled_out: 30,
        lost: 10,
        ..api::Observer::default()
    }
}

fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    let family = families.get(name).or_else(|| families.get(base?)).unwrap_or_else(|| panic!("{name}"));
    let found = family.samples.iter().find(|s| s.name == name && s.labels == labels);
    found.unwrap_or_else(|| panic!("{name} {labels:?}")).value
}

#[test]
fn a_scraper_takes_the_page() {
    let telemetry = Telemetry::default();
    let done: Result<(), &str> = telemetry.begin(Rpc::PullImage, &MetadataMap::new()).end(Ok(()));
    assert!(done.is_ok());
    let families = parse(&page(telemetry.figures(), running(), 3));
    check(&families);
    let of = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    assert_eq!(of("sandboxd_pods", &[("state", "ready")]), 2.0);
    assert_eq!(of("sandboxd_start_time_seconds", &[]), 1_700_000_000.5);
    assert_eq!(of("sandboxd_observer_info", &[("rung", "tp_btf")]), 1.0);
    assert_eq!(of("sandboxd_checks_total", &[("verdict", "denied"), ("reason", "too \"odd\"\n\\")]), 6.0);
    let produced = of("sandboxd_observer_produced_total", &[]);
    let parts =
        ["seen", "sampled_out", "lost"].map(|part| of(&format!("sandboxd_observer_{part}_total"), &[]));
    assert_eq!(produced, parts.iter().sum::<f64>());
    let pulls = [("method", "PullImage"), ("result", "ok")];
    assert_eq!(of("sandboxd_rpc_duration_seconds_count", &pulls), 1.0);
    assert_eq!(of("sandboxd_degraded", &[("name", "cgroup.v1")]), 1.0);
}

#[test]
fn what_is_not_seen_is_said() {
    let observer =
        api::Observer { state: api::observer::State::Unavailable.into(), ..api::Observer::default() };
    let families = parse(&page(&Figures::default(), observer, 0));
    check(&families);
    assert_eq!(value(&families, "sandboxd_observer_up", &[]), 0.0);
    assert!(!families.contains_key("sandboxd_observer_info"));
}

#[test]
fn many_pods_are_bounded_and_none_is_missing_from_the_sum() {
    let families = parse(&page(&Figures::default(), running(), 1_000));
    check(&families);
    let checks = &families["sandboxd_pod_checks"];
    assert_eq!(checks.samples.len(), (PODS + 1) * 2);
    assert_eq!(checks.samples.iter().map(|s| s.value).sum::<f64>(), 3_000.0);
}

/// The document names every metric, and no other.
#[test]
fn the_document_is_complete() {
    let document = include_str!("../../../docs/metrics.md");
    let words = document.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let documented: BTreeSet<_> = words.filter(|word| word.starts_with("sandboxd_")).collect();
    let families = parse(&page(&Figures::default(), running(), 1));
    let there: BTreeSet<_> = families.keys().map(String::as_str).collect();
    assert_eq!(documented, there);
}

#[test]
fn histograms_add_up_under_load() {
    let telemetry = Telemetry::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    let _: Result<(), &str> =
                        telemetry.begin(Rpc::StartContainer, &MetadataMap::new()).end(Err("no"));
                }
            });
        }
        for _ in 0..20 {
            check(&parse(&page(telemetry.figures(), running(), 1)));
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let families = parse(&page(telemetry.figures(), running(), 1));
    let starts = [("method", "StartContainer"), ("result", "error")];
    assert_eq!(value(&families, "sandboxd_rpc_duration_seconds_count", &starts), 4_000.0);
}
