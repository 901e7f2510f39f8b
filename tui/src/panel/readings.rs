//! Answers to what the panel on the screen wanted read, and when to read it again.

use std::collections::HashMap;

use sandboxd_api::console::{
    DoctorResponse, GetUsageResponse, ListCapabilitiesResponse, ListNamespacesResponse, ListPullsResponse,
    Usage,
};

use crate::feed::query::{Answer, Query};

const SECOND: i64 = 1_000_000_000;
/// A question without an answer for so long is asked again: the feed may have been too busy to take it.
const LOST_NS: i64 = 10 * SECOND;
/// Readings kept; usages of pods no longer looked at go first.
const KEPT: usize = 32;

/// What a panel wants to have read, and how often while it is on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub query: Query,
    pub every_ns: i64,
}

impl Want {
    pub fn every_seconds(query: Query, seconds: i64) -> Self {
        Self { query, every_ns: seconds * SECOND }
    }
}

#[derive(Debug, Default)]
pub struct Reading {
    asked_ns: i64,
    waiting: bool,
    /// When the answer came; 0: none did.
    pub came_ns: i64,
    pub answer: Option<Answer>,
    /// The answer before that: what grows has a rate only between two.
    before: Option<Answer>,
    /// Why the newest question was not answered; an older answer stays beside it.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
pub struct Readings {
    of: HashMap<Query, Reading>,
}

impl Readings {
    /// Whether it is time to ask; it counts as asked then.
    pub fn due(&mut self, want: &Want, now_ns: i64) -> bool {
        let reading = self.of.entry(want.query.clone()).or_default();
        let since = now_ns.saturating_sub(reading.asked_ns);
        let due = reading.asked_ns == 0 || since >= if reading.waiting { LOST_NS } else { want.every_ns };
        if due {
            reading.asked_ns = now_ns;
            reading.waiting = true;
        }
        due
    }

    /// Has it asked again at the next opportunity.
    pub fn expire(&mut self, query: &Query) {
        if let Some(reading) = self.of.get_mut(query) {
            reading.asked_ns = 0;
        }
    }

    pub fn take(&mut self, query: Query, answer: Result<Answer, String>, now_ns: i64) {
        if self.of.len() > KEPT {
            self.of.retain(|kept, _| *kept == query || !matches!(kept, Query::Usage { .. }));
        }
        let reading = self.of.entry(query).or_default();
        reading.waiting = false;
        match answer {
            Ok(mut answer) => {
                answer.clean();
                reading.came_ns = now_ns;
                reading.error = None;
                // A recording repeats its last one: that is no second point in time.
                if reading.answer.as_ref() != Some(&answer) {
                    reading.before = reading.answer.replace(answer);
                }
            }
            Err(error) => reading.error = Some(crate::text::clean(&error)),
        }
    }

    pub fn clear(&mut self) {
        self.of.clear();
    }

    pub fn get(&self, query: &Query) -> Option<&Reading> {
        self.of.get(query)
    }

    pub fn namespaces(&self) -> Option<&ListNamespacesResponse> {
        match self.get(&Query::Namespaces)?.answer.as_ref()? {
            Answer::Namespaces(answer) => Some(answer),
            _ => None,
        }
    }

    pub fn capabilities(&self) -> Option<&ListCapabilitiesResponse> {
        match self.get(&Query::Capabilities)?.answer.as_ref()? {
            Answer::Capabilities(answer) => Some(answer),
            _ => None,
        }
    }

    pub fn doctor(&self) -> Option<&DoctorResponse> {
        match self.get(&Query::Doctor)?.answer.as_ref()? {
            Answer::Doctor(answer) => Some(answer),
            _ => None,
        }
    }

    pub fn pulls(&self) -> Option<&ListPullsResponse> {
        match self.get(&Query::Pulls)?.answer.as_ref()? {
            Answer::Pulls(answer) => Some(answer),
            _ => None,
        }
    }

    /// What the pod or one of its containers uses now, and its rate of CPU.
    pub fn usage(&self, pod_id: &str, id: &str) -> Option<(Usage, Option<Cpu>)> {
        let reading = self.get(&Query::Usage { pod_id: pod_id.to_owned() })?;
        let Some(Answer::Usage(now)) = &reading.answer else { return None };
        let usage = usage_of(now, id)?;
        let before = match &reading.before {
            Some(Answer::Usage(before)) => {
                usage_of(before, id).and_then(|then| Cpu::between(then, before.time_ns, usage, now.time_ns))
            }
            _ => None,
        };
        Some((usage.clone(), before))
    }
}

fn usage_of<'a>(answer: &'a GetUsageResponse, id: &str) -> Option<&'a Usage> {
    answer.pods.iter().chain(&answer.containers).find(|usage| usage.id == id)
}

/// Tenths of a percent of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu(pub u64);

impl Cpu {
    /// `None` without time between the two, or when the counter went back: the container began anew.
    fn between(then: &Usage, then_ns: i64, now: &Usage, now_ns: i64) -> Option<Self> {
        let span = u64::try_from(now_ns.checked_sub(then_ns)?).ok().filter(|span| *span > 0)?;
        let used = now.cpu_ns.checked_sub(then.cpu_ns)?;
        u64::try_from(u128::from(used) * 1_000 / u128::from(span)).ok().map(Self)
    }
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}%", self.0 / 10, self.0 % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(time_ns: i64, cpu_ns: u64) -> Answer {
        let pod = Usage { id: "p".into(), cpu_ns, ..Usage::default() };
        Answer::Usage(GetUsageResponse { time_ns, pods: vec![pod], containers: Vec::new() })
    }

    #[test]
    fn a_rate_needs_two_readings_that_go_forward() {
        let query = Query::Usage { pod_id: "p".into() };
        let mut readings = Readings::default();
        let cpu = |readings: &Readings| readings.usage("p", "p").unwrap().1;
        readings.take(query.clone(), Ok(usage(SECOND, 100)), 1);
        assert_eq!(cpu(&readings), None);
        readings.take(query.clone(), Ok(usage(3 * SECOND, 500_000_100)), 2);
        assert_eq!(cpu(&readings).unwrap().to_string(), "25.0%");
        // Repeated, as at a recording's end: the rate stays.
        readings.take(query.clone(), Ok(usage(3 * SECOND, 500_000_100)), 3);
        assert_eq!(cpu(&readings), Some(Cpu(250)));
        readings.take(query, Ok(usage(5 * SECOND, 7)), 4);
        assert_eq!(cpu(&readings), None, "it began anew");
    }

    #[test]
    fn what_is_on_the_screen_is_read_in_its_time_and_not_twice_at_once() {
        let want = Want::every_seconds(Query::Pulls, 2);
        let mut readings = Readings::default();
        assert!(readings.due(&want, 100 * SECOND));
        assert!(!readings.due(&want, 103 * SECOND), "still waiting for the first");
        assert!(readings.due(&want, 110 * SECOND), "it seems lost");
        readings.take(Query::Pulls, Err("no".into()), 111 * SECOND);
        assert!(!readings.due(&want, 111 * SECOND));
        assert!(readings.due(&want, 112 * SECOND));
        readings.take(Query::Pulls, Err("no".into()), 112 * SECOND);
        readings.expire(&Query::Pulls);
        assert!(readings.due(&want, 112 * SECOND));
    }
}
