//! The process of a container: what it executes, as whom, with which capabilities; and further ones of it.

use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, User as OciUser};

use super::super::{RuntimeError, capabilities};
use super::ContainerInput;
use crate::container::spec::Security;
use crate::pod::model::Pod;

/// What programs are looked for in, where neither image nor request says.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TERM: &str = "TERM=xterm";

/// The user a container runs as, resolved in its root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// From passwd.
    pub home: Option<String>,
}

pub(super) fn process(
    input: &ContainerInput<'_>,
    warnings: &mut Vec<String>,
) -> Result<Process, RuntimeError> {
    let security = &input.spec.security;
    let groups = input.user.groups.iter().chain(&input.cdi.gids).copied();
    let mut user = OciUser::default();
    user.set_uid(input.user.uid).set_gid(input.user.gid).set_additional_gids(Some(groups.collect()));
    let mut process = Process::default();
    process
        .set_terminal(Some(input.spec.tty))
        .set_user(user)
        .set_args(Some(args(input)?))
        .set_env(Some(env(input)))
        .set_cwd(cwd(input).into())
        .set_capabilities(Some(sets(security, input.pod, input.user.uid, warnings)?))
        // Those of the daemon, as set for its service: a number chosen here would be the wrong one for somebody.
        .set_rlimits(None)
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_oom_score_adj(Some(input.spec.resources.oom_score_adj.unwrap_or(0)))
        .set_apparmor_profile(security.apparmor.clone().filter(|_| !security.privileged))
        .set_selinux_label(security.selinux.clone());
    Ok(process)
}

/// A further process of a container: as its first one, but for the command and the terminal.
#[must_use]
pub fn exec_process(container: &Process, command: &[String], tty: bool) -> Process {
    let mut process = container.clone();
    process.set_args(Some(command.to_vec())).set_terminal(Some(tty)).set_console_size(None);
    if tty {
        let env = process.env().clone().unwrap_or_default();
        process.set_env(Some(merged(std::iter::once(TERM.to_owned()).chain(env))));
    }
    process
}

/// `command` replaces the image's entrypoint and with it its cmd; `args` replaces the cmd alone.
fn args(input: &ContainerInput<'_>) -> Result<Vec<String>, RuntimeError> {
    let (spec, image) = (input.spec, &input.image.config);
    let (command, args) = if spec.command.is_empty() {
        let cmd = if spec.args.is_empty() { &image.cmd } else { &spec.args };
        (&image.entrypoint, cmd)
    } else {
        (&spec.command, &spec.args)
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        let what = format!(
            "image {:?} says nothing to run, and neither do config.command and config.args: set one of them",
            spec.image.image
        );
        return Err(RuntimeError::Unsupported { what });
    }
    Ok(all)
}

/// Later ones win: defaults, the image's, the request's, and those of its devices, which know what they need.
fn env(input: &ContainerInput<'_>) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={}", input.hostname)];
    env.extend(input.user.home.iter().map(|home| format!("HOME={home}")));
    env.extend(input.spec.tty.then(|| TERM.to_owned()));
    let usable = |entry: &&String| !entry.starts_with('=') && entry.contains('=') && !entry.contains('\0');
    env.extend(input.image.config.env.iter().filter(usable).cloned());
    env.extend(input.spec.envs.iter().map(|(key, value)| format!("{key}={}", value.text())));
    env.extend(input.cdi.env.iter().filter(usable).cloned());
    merged(env)
}

/// One entry a name, at its first place with its last value.
fn merged(env: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut places = std::collections::HashMap::new();
    let mut kept: Vec<String> = Vec::new();
    for entry in env {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name).to_owned();
        let place = *places.entry(name).or_insert(kept.len());
        match kept.get_mut(place) {
            Some(earlier) => *earlier = entry,
            None => kept.push(entry),
        }
    }
    kept
}

fn cwd(input: &ContainerInput<'_>) -> String {
    let image = &input.image.config.working_dir;
    match (input.spec.working_dir.as_str(), image.as_str()) {
        ("", "") => "/".to_owned(),
        // Docker takes a relative one as under the root.
        ("", image) if !image.starts_with('/') => format!("/{image}"),
        ("", image) => image.to_owned(),
        (asked, _) => asked.to_owned(),
    }
}

/// The default set with what is added and dropped; everything for a privileged container.
///
/// A user other than root holds none of them, as after execve(2), but the ambient ones: the rest bounds what a
/// program with file capabilities may get.
fn sets(
    security: &Security,
    pod: &Pod,
    uid: u32,
    warnings: &mut Vec<String>,
) -> Result<LinuxCapabilities, RuntimeError> {
    let all = capabilities::all();
    let mut granted = if security.privileged {
        all
    } else {
        let (add, drop) = (security.add_capabilities, security.drop_capabilities);
        let default = capabilities::bits(&capabilities::DEFAULT.into_iter().collect());
        // "ALL" on either side is the ground the single names are laid upon.
        let ground = match (add == all, drop == all) {
            (_, true) => 0,
            (true, false) => all,
            (false, false) => default,
        };
        let added = if add == all { ground } else { ground | add };
        (if drop == all { added } else { added & !drop }) | security.add_ambient_capabilities
    };
    let mut ambient = security.add_ambient_capabilities;
    // A new user namespace comes with all of them; outside of one the daemon can give only what it has.
    if pod.spec.namespaces.user.is_none() {
        let own = capabilities::own().map_err(|source| RuntimeError::Io {
            action: "reading the daemon's own capabilities".into(),
            source,
        })?;
        let own = capabilities::bits(&own);
        let missing = granted & !own;
        if missing != 0 {
            warnings.push(format!(
                "capabilities {} are not given: the daemon does not have them itself",
                names(missing)
            ));
        }
        granted &= own;
        ambient &= own;
    }
    let held = if uid == 0 { granted } else { ambient };
    let set = |bits: u64| Some(capabilities::from_bits(bits));
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(set(granted))
        .set_permitted(set(held))
        .set_effective(set(held))
        .set_inheritable(set(ambient))
        .set_ambient(set(ambient));
    Ok(sets)
}

fn names(bits: u64) -> String {
    let capabilities: Capabilities = capabilities::from_bits(bits);
    let mut names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    names.sort();
    names.join(", ")
}
