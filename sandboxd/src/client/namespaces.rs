//! `sandboxd namespaces`: every namespace of the node as a tree of owners; with the daemon's knowledge of its pods
//! where it runs, and without where it does not.

use std::collections::HashMap;
use std::fmt::Write as _;

use clap::Args;
use sandboxd_api::console::host_namespace::State;
use sandboxd_api::console::{HostNamespace, ListNamespacesRequest, ListNamespacesResponse};
use tonic::Code;

use super::connection::{connect, refused};
use super::text::{clean, fit, print, width, wrap};
use super::{ClientError, ConsoleArgs};
use crate::observer::inventory::{Context, Inventory, response};
use crate::pod::model::NsKind;

#[derive(Debug, Args)]
pub struct NamespacesArgs {
    /// Only those that nobody is in and that belong to nothing
    #[arg(long)]
    pub leaked: bool,
    /// Only this kind: user, net, mnt, pid, ipc, uts, cgroup or time
    #[arg(long, value_name = "K", value_parser = kind)]
    pub kind: Option<NsKind>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub console: ConsoleArgs,
}

fn kind(name: &str) -> Result<NsKind, String> {
    NsKind::named(name).ok_or_else(|| format!("one of {}", NsKind::ALL.map(NsKind::name).join(", ")))
}

/// Carries the command out.
///
/// # Errors
/// When a daemon refuses to answer; that none runs is no error.
pub async fn run(args: &NamespacesArgs) -> Result<(), ClientError> {
    let listed = match ask(args).await {
        Err(ClientError::NoDaemon { path, source }) => {
            eprintln!(
                "sandboxd: no daemon on {} ({source}): pods are known by their pins alone",
                path.display()
            );
            // Nothing else runs on this thread.
            response(&Inventory::read(&Context::default()), args.kind, args.leaked)
        }
        asked => asked?,
    };
    if args.json {
        return print(&(serde_json::to_string_pretty(&listed)? + "\n"));
    }
    print(&table(&listed, width(), args.leaked))
}

async fn ask(args: &NamespacesArgs) -> Result<ListNamespacesResponse, ClientError> {
    let path = args.console.socket()?;
    let mut client = connect(&path).await?;
    let kind = args.kind.map(NsKind::name).unwrap_or_default().to_owned();
    let asked = client.list_namespaces(ListNamespacesRequest { kind, leaked_only: args.leaked }).await;
    match asked {
        Ok(listed) => Ok(listed.into_inner()),
        // An older daemon: what it cannot say is read here.
        Err(status) if status.code() == Code::Unimplemented && status.message().contains("built") => {
            Ok(response(&Inventory::read(&Context::default()), args.kind, args.leaked))
        }
        Err(status) => Err(refused(&path, &status)),
    }
}

/// Columns of kind (with its depth), inode, state, processes; what is left is for who.
const KIND: usize = 12;
const INODE: usize = 10;
const STATE: usize = 6;
const COUNT: usize = 5;
/// A user namespace deeper than this is indented no further.
const DEPTH: usize = 3;

/// One line each, and what is wrong under it.
fn table(listed: &ListNamespacesResponse, columns: usize, leaked_only: bool) -> String {
    let mut out = String::new();
    let rest = columns.saturating_sub(KIND + INODE + STATE + COUNT + 4).max(16);
    let line = |out: &mut String, [kind, inode, state, count, who]: [&str; 5]| {
        let who = fit(who, rest);
        let text = format!("{kind:KIND$} {inode:INODE$} {state:STATE$} {count:>COUNT$} {who}");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    if !listed.namespaces.is_empty() {
        line(&mut out, ["KIND", "NAMESPACE", "STATE", "PROCS", "POD, PROCESSES, WHAT HOLDS IT"]);
    }
    let mut depths: HashMap<u64, usize> = HashMap::new();
    for namespace in &listed.namespaces {
        let depth = depths.get(&namespace.owner_inode).map_or(0, |owner| owner + 1);
        if namespace.kind == NsKind::User.name() {
            depths.insert(namespace.inode, depth);
        }
        let kind = format!("{}{}", "  ".repeat(depth.min(DEPTH)), namespace.kind);
        let (inode, count) = (namespace.inode.to_string(), namespace.process_count.to_string());
        line(&mut out, [&kind, &inode, state(namespace), &count, &who(namespace)]);
        let mut said = clean(&namespace.message);
        if said.is_empty() {
            continue;
        }
        if leaked_only && namespace.owner_inode != 0 {
            said = format!("{said} User namespace {} owns it.", namespace.owner_inode);
        }
        let sign = if namespace.wrong_owner { "!!" } else { "!" };
        for (n, text) in wrap(&said, columns.saturating_sub(KIND + 1).max(16)).into_iter().enumerate() {
            let _ = writeln!(out, "{:>KIND$} {text}", if n == 0 { sign } else { "" });
        }
    }
    let count = |wanted: State| listed.namespaces.iter().filter(|n| n.state() == wanted).count();
    let wrong = listed.namespaces.iter().filter(|n| n.wrong_owner).count();
    let mut summary = format!(
        "{} namespaces: {} in use, {} pinned, {} held, {} leaked",
        listed.namespaces.len(),
        count(State::InUse),
        count(State::Pinned),
        count(State::Held),
        count(State::Leaked)
    );
    if leaked_only {
        summary = match listed.namespaces.len() {
            0 => "no leaked namespaces".to_owned(),
            1 => "1 leaked namespace".to_owned(),
            many => format!("{many} leaked namespaces"),
        };
    }
    if wrong > 0 {
        let _ = write!(summary, ", {wrong} owned by the wrong user namespace");
    }
    let _ = writeln!(out, "{summary} (read in {} ms)", listed.took_ns / 1_000_000);
    for missing in &listed.degradations {
        for text in wrap(&format!("not seen: {}", missing.message), columns) {
            let _ = writeln!(out, "{text}");
        }
    }
    out
}

fn state(namespace: &HostNamespace) -> &'static str {
    match namespace.state() {
        State::Unspecified => "?",
        State::InUse if namespace.wrong_owner => "WRONG",
        State::InUse => "in use",
        State::Pinned => "pinned",
        State::Held => "held",
        State::Leaked => "LEAKED",
    }
}

/// The pod, the processes, the id map, what holds it: as much as fits.
fn who(namespace: &HostNamespace) -> String {
    let mut parts = Vec::new();
    if namespace.host {
        parts.push("host".to_owned());
    }
    if !namespace.pod_id.is_empty() {
        let short = namespace.pod_id.get(..13).unwrap_or(&namespace.pod_id);
        parts.push(if namespace.pod_name.is_empty() {
            format!("pod {short}")
        } else {
            namespace.pod_name.clone()
        });
    }
    if let Some(map) = namespace.uid_map.first().filter(|_| !namespace.host) {
        parts.push(format!("ids {}+{}", map.host_id, map.length));
    }
    let named = |p: &sandboxd_api::console::Process| {
        let role = if p.role.is_empty() { String::new() } else { format!(" {}", p.role) };
        format!("{}({}){role}", p.comm, p.pid)
    };
    parts.extend(namespace.processes.iter().take(2).map(named));
    if namespace.process_count == 0 {
        parts.extend(namespace.holds.iter().take(2).map(|hold| match hold.kind.as_str() {
            "fd" => format!("fd of {}({})", hold.comm, hold.pid),
            "for-children" => format!("children of {}({})", hold.comm, hold.pid),
            "child" => format!("owns {}", hold.what),
            _ => hold.what.clone(),
        }));
    }
    clean(&parts.join(" "))
}

#[cfg(test)]
mod tests {
    use sandboxd_api::console::{Degradation, Hold, IdRange, Process};

    use super::*;

    fn listed() -> ListNamespacesResponse {
        let namespace = |kind: &str, inode, owner_inode, state: State| HostNamespace {
            kind: kind.into(),
            inode,
            owner_inode,
            state: state.into(),
            ..HostNamespace::default()
        };
        let mut host = namespace("user", 4_026_531_837, 0, State::InUse);
        host.host = true;
        host.process_count = 212;
        host.processes = vec![Process { pid: 1, comm: "systemd".into(), role: String::new() }];
        let mut net = namespace("net", 4_026_532_100, 4_026_531_837, State::Leaked);
        net.holds = vec![Hold {
            kind: "pin".into(),
            what: "/srv/a/very/long/path".repeat(5),
            pid: 1,
            comm: "x".into(),
        }];
        net.message =
            "No process is in it. Descriptor 7 of sl\x1b[2Jeep (pid 9) keeps it: it ends when that process \
            closes it or ends."
                .into();
        let mut user = namespace("user", 4_026_532_200, 4_026_531_837, State::InUse);
        user.uid_map = vec![IdRange { container_id: 0, host_id: 100_000, length: 65_536 }];
        user.process_count = 2;
        user.pod_id = "ab".repeat(32);
        user.pod_name = "default/web".into();
        let mnt = namespace("mnt", 4_026_532_201, 4_026_532_200, State::InUse);
        ListNamespacesResponse {
            namespaces: vec![host, net, user, mnt],
            read_at_ns: 1,
            took_ns: 12_345_678,
            degradations: vec![Degradation {
                name: "n".into(),
                message: "a thing that was not read ".repeat(8),
            }],
        }
    }

    #[test]
    fn the_table_fits_eighty_columns_and_says_what_is_wrong() {
        let text = table(&listed(), 80, false);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\x1b'));
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("user         4026531837 in use   212 host systemd(1)"), "{text}");
        assert!(lines[2].starts_with("  net        4026532100 LEAKED     0 /srv/a/very"), "{text}");
        assert!(lines[3].starts_with("           ! No process is in it. Descriptor 7"), "{text}");
        assert!(text.contains("  user       4026532200 in use     2 default/web ids 100000+65536"), "{text}");
        assert!(text.contains("\n    mnt      4026532201"), "{text}");
        assert!(
            text.contains("4 namespaces: 3 in use, 0 pinned, 0 held, 1 leaked (read in 12 ms)"),
            "{text}"
        );
    }

    #[test]
    fn no_leaks_is_said() {
        let none = ListNamespacesResponse::default();
        assert_eq!(table(&none, 80, true), "no leaked namespaces (read in 0 ms)\n");
    }
}
