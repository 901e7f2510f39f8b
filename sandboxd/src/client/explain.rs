//! `sandboxd explain`: why the kernel denied something, in words; of a recorded check, of each new one, or out of a
//! recording of the console.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use sandboxd_api::console::check::Verdict;
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::watch_response::Message;
use sandboxd_api::console::{
    Check, Delta, ExplainCheckRequest, ExplainCheckResponse, Explanation, ListChecksRequest, WatchRequest,
};

use super::connection::{Client, connect, refused};
use super::text::{clean, print, time, width, wrap};
use super::{ClientError, ConsoleArgs, recording};

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["seq", "last", "follow"]))]
pub struct ExplainArgs {
    /// Number of the check, as consoles and `sandboxd events` show it
    #[arg(value_name = "SEQ", conflicts_with_all = ["last", "follow", "pod", "pid", "failed"])]
    pub seq: Option<u64>,
    /// The last check that was denied
    #[arg(long)]
    pub last: bool,
    /// Of this pod, by its id or the beginning of it
    #[arg(long, value_name = "P")]
    pub pod: Option<String>,
    /// Of this process
    #[arg(long, value_name = "N")]
    pub pid: Option<i32>,
    /// Go on with each check that is denied from now on
    #[arg(long, conflicts_with = "record")]
    pub follow: bool,
    /// Out of a recording (`sandboxd-tui --record FILE`) instead of the daemon
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Also calls that nobody refused: what they asked for is missing, busy or not valid
    #[arg(long)]
    pub failed: bool,
    /// Print JSON; with --follow an object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// The reason of denials that do not make a system call fail.
const INCIDENTAL: &str = "incidental";
/// Denied checks among which the last that decides is looked for.
const LOOKED_AT: u32 = 1_000;

/// Carries the command out.
///
/// # Errors
/// When there is no daemon, or nothing to explain.
pub async fn run(args: &ExplainArgs) -> Result<(), ClientError> {
    if let Some(path) = &args.record {
        let told = recording::explained(path, args.seq, |check| args.takes(check))?;
        return args.show(&told);
    }
    let path = args.console.socket()?;
    let mut client = connect(&path).await?;
    // Subscribed to before the last one is looked for: none falls in between.
    let stream = match args.follow {
        true => {
            let watched = client.watch(WatchRequest { recent_checks: 1 }).await;
            Some(watched.map_err(|status| refused(&path, &status))?.into_inner())
        }
        false => None,
    };
    let seq = match (args.seq, args.last) {
        (Some(seq), _) => Some(seq),
        (None, true) => Some(args.last_denied(&mut client, &path).await?),
        (None, false) => None,
    };
    if let Some(seq) = seq {
        args.show(&explain(&mut client, &path, seq).await?)?;
    }
    let Some(mut stream) = stream else { return Ok(()) };
    loop {
        let message = stream.message().await.map_err(|status| refused(&path, &status))?;
        let Some(message) = message else {
            return Err(ClientError::Broken("the daemon ended".to_owned()));
        };
        match message.message {
            Some(Message::Delta(Delta { change: Some(Change::Check(check)), .. }))
                if Some(check.seq) != seq && args.takes(&check) && check.reason != INCIDENTAL =>
            {
                match explain(&mut client, &path, check.seq).await {
                    Ok(told) => args.show(&told)?,
                    // Forgotten already, in a flood: what is known of it is still worth a line.
                    Err(ClientError::Refused(_)) => {
                        args.show(&ExplainCheckResponse { check: Some(check), explanation: None })?;
                    }
                    Err(error) => return Err(error),
                }
            }
            Some(Message::Delta(Delta { change: Some(Change::Lagged(lagged)), .. })) => {
                eprintln!("sandboxd: {} messages came too fast and were left out", lagged.messages);
            }
            _ => {}
        }
    }
}

async fn explain(client: &mut Client, path: &Path, seq: u64) -> Result<ExplainCheckResponse, ClientError> {
    let told = client.explain_check(ExplainCheckRequest { seq }).await;
    Ok(told.map_err(|status| refused(path, &status))?.into_inner())
}

impl ExplainArgs {
    /// By its verdict.
    fn wants(&self, check: &Check) -> bool {
        match check.verdict() {
            Verdict::Denied | Verdict::Refused => true,
            Verdict::Failed => self.failed,
            Verdict::Allowed | Verdict::Unspecified => false,
        }
    }

    fn takes(&self, check: &Check) -> bool {
        self.wants(check)
            && self.pod.as_ref().is_none_or(|pod| !pod.is_empty() && check.pod_id.starts_with(pod.as_str()))
            && self.pid.is_none_or(|pid| check.pid == pid || check.tid == pid)
    }

    /// Of whom, for an error's text: "of pod web and of process 7 ".
    fn of(&self) -> String {
        let pod = self.pod.as_ref().map(|pod| format!("of pod {pod:?}"));
        let pid = self.pid.map(|pid| format!("of process {pid}"));
        let parts: Vec<_> = pod.into_iter().chain(pid).collect();
        if parts.is_empty() { String::new() } else { parts.join(" and ") + " " }
    }

    /// The last one that made a system call fail; where there is none, the last one.
    async fn last_denied(&self, client: &mut Client, path: &Path) -> Result<u64, ClientError> {
        let request = ListChecksRequest {
            pod_id: self.pod.clone().unwrap_or_default(),
            denied_only: !self.failed,
            limit: LOOKED_AT,
            pid: self.pid.unwrap_or_default(),
            ..ListChecksRequest::default()
        };
        let listed = client.list_checks(request).await.map_err(|status| refused(path, &status))?.into_inner();
        let mut taken = listed.checks.iter().rev().filter(|check| self.wants(check)).peekable();
        let last = taken.peek().copied();
        let decisive = taken.find(|check| check.reason != INCIDENTAL);
        decisive.or(last).map(|check| check.seq).ok_or_else(|| ClientError::NoneDenied {
            of: self.of(),
            forgotten: match listed.forgotten {
                0 => String::new(),
                n => format!(": {n} older checks are forgotten"),
            },
        })
    }

    fn show(&self, told: &ExplainCheckResponse) -> Result<(), ClientError> {
        let text = match (self.json, self.follow) {
            (true, true) => serde_json::to_string(told)? + "\n",
            (true, false) => serde_json::to_string_pretty(told)? + "\n",
            (false, true) => words(told, width()) + "\n",
            (false, false) => words(told, width()),
        };
        print(&text)
    }
}

/// Columns of the names before the words.
const NAME: usize = 11;

/// The check and its explanation, every field of both.
fn words(told: &ExplainCheckResponse, columns: usize) -> String {
    let check = told.check.clone().unwrap_or_default();
    let explanation = told.explanation.clone().unwrap_or_default();
    let mut out = String::new();
    let mut say = |name: &str, text: &str| {
        for (n, line) in wrap(&clean(text), columns.saturating_sub(NAME).max(20)).into_iter().enumerate() {
            let name = if n == 0 { name } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:NAME$}{line}");
        }
    };
    say("Check", &format!("{} at {}", check.seq, time(check.time_ns)));
    say("Process", &process(&check));
    say("Pod", &pod(&check));
    say("Verdict", &verdict(&check));
    say("Summary", &check.summary);
    say("Reason", reason(&check, &explanation));
    say("What", &explanation.headline);
    say("Asked", &explanation.asked);
    say("Target", &explanation.target);
    say("Caller", &explanation.caller);
    say("Namespaces", &namespaces(&check));
    say("Made by", &explanation.made_by);
    say("Fix", &explanation.fix);
    for (n, source) in explanation.sources.iter().enumerate() {
        say(if n == 0 { "Sources" } else { "" }, source);
    }
    out
}

fn reason<'a>(check: &'a Check, explanation: &'a Explanation) -> &'a str {
    if explanation.reason.is_empty() { &check.reason } else { &explanation.reason }
}

fn process(check: &Check) -> String {
    let thread = if check.tid == check.pid { String::new() } else { format!(", thread {}", check.tid) };
    let argument = if check.argument.is_empty() { String::new() } else { format!("({})", check.argument) };
    format!("{} (pid {}{thread}) called {}{argument}{}", check.comm, check.pid, check.syscall, result(check))
}

fn result(check: &Check) -> String {
    match check.result {
        None => String::new(),
        Some(0) => ", which succeeded".to_owned(),
        Some(errno) => {
            let words = std::io::Error::from_raw_os_error(errno.abs());
            format!(", which failed: {words}")
        }
    }
}

fn pod(check: &Check) -> String {
    if check.pod_id.is_empty() {
        return "none of this node, as far as sandboxd knows".to_owned();
    }
    let container = if check.container.is_empty() { String::new() } else { format!(", {}", check.container) };
    format!("{}{container} ({})", check.pod_name, check.pod_id.get(..13).unwrap_or(&check.pod_id))
}

fn verdict(check: &Check) -> String {
    let capability = &check.capability_name;
    match check.verdict() {
        Verdict::Unspecified => "not known".to_owned(),
        Verdict::Allowed => format!("ALLOWED: {capability} in user namespace {}", check.target_userns),
        Verdict::Denied => format!("DENIED: {capability} in user namespace {}", check.target_userns),
        Verdict::Refused => "REFUSED, without a denied capability".to_owned(),
        Verdict::Failed => "FAILED, and nobody refused".to_owned(),
    }
}

fn namespaces(check: &Check) -> String {
    let known = [
        ("user", check.caller_userns),
        ("net", check.caller_netns),
        ("mnt", check.caller_mntns),
        ("pid", check.caller_pidns),
    ];
    let known: Vec<_> = known
        .into_iter()
        .filter(|(_, inode)| *inode != 0)
        .map(|(kind, inode)| format!("{kind} {inode}"))
        .collect();
    if known.is_empty() { String::new() } else { format!("the caller's: {}", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> ExplainCheckResponse {
        let check = Check {
            seq: 7,
            time_ns: 1_790_000_000_123_456_789,
            pid: 42,
            tid: 43,
            comm: "mo\x07unt".into(),
            syscall: "mount".into(),
            argument: "sysfs".into(),
            capability: 21,
            capability_name: "CAP_SYS_ADMIN".into(),
            verdict: Verdict::Denied.into(),
            caller_userns: 100,
            target_userns: 4_026_531_837,
            caller_netns: 200,
            pod_id: "ab".repeat(32),
            pod_name: "default/web".into(),
            container: "infra".into(),
            reason: "netns-owned-by-other-userns".into(),
            summary: "the summary".into(),
            result: Some(1),
            ..Check::default()
        };
        let field =
            |name: &str| format!("{name} in a sentence that is long enough to be wrapped at eighty columns.");
        let explanation = Explanation {
            reason: check.reason.clone(),
            headline: field("headline"),
            asked: field("asked"),
            target: field("target"),
            caller: field("caller"),
            made_by: field("made-by"),
            fix: field("fix"),
            sources: vec!["user_namespaces(7)".into(), "net/core/net-sysfs.c".into()],
        };
        ExplainCheckResponse { check: Some(check), explanation: Some(explanation) }
    }

    #[test]
    fn every_field_is_said_within_the_terminal() {
        for columns in [40, 80, 120] {
            let text = words(&told(), columns);
            // A word that is longer than the line stands alone in one.
            let fits = |line: &str| line.chars().count() <= columns || line.split_whitespace().count() == 1;
            assert!(text.lines().all(fits), "{columns}: {text}");
            assert!(!text.contains('\x07'));
            for word in [
                "2026-09-21T14:13:20.123456789Z",
                "pid 42, thread 43",
                "mount(sysfs)",
                "not permitted",
                "default/web,",
                "DENIED:",
                "CAP_SYS_ADMIN",
                "4026531837",
                "netns-owned-by-other-userns",
                "headline",
                "asked",
                "target",
                "caller",
                "made-by",
                "fix",
                "user_namespaces(7)",
                "net-sysfs.c",
                "net 200",
                "the summary",
            ] {
                let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(flat.contains(word), "{word:?} is missing at {columns}: {text}");
            }
        }
    }

    #[test]
    fn json_has_the_same_fields() {
        let json: serde_json::Value = serde_json::to_value(told()).unwrap();
        assert_eq!(json["check"]["verdict"], "DENIED");
        assert_eq!(json["explanation"]["made_by"], told().explanation.unwrap().made_by);
    }
}
