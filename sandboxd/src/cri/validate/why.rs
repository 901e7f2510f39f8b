//! What can be wrong with a request: the field, its value, the reason and the way out.

use std::fmt;

/// A `PodSandboxConfig` or `ContainerConfig` that cannot be carried out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value}: {why}")]
pub struct Invalid {
    /// The path of the field in the request: `config.linux.sysctls["kernel.panic"]`.
    pub field: String,
    /// As it came, cut to a readable length.
    pub value: String,
    pub why: Why,
}

/// How much of a refused value an error repeats.
const SHOWN: usize = 200;

impl Invalid {
    pub(in crate::cri) fn new(field: impl Into<String>, value: impl fmt::Debug, why: Why) -> Self {
        let mut value = format!("{value:?}");
        if value.len() > SHOWN {
            let cut = value.floor_char_boundary(SHOWN);
            value.truncate(cut);
            value.push('…');
        }
        Self { field: field.into(), value, why }
    }
}

/// Why a value is refused, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("required: set it")]
    Missing,
    #[error("longer than {max} bytes: shorten it")]
    TooLong { max: usize },
    #[error("more than {max} entries: give fewer")]
    TooMany { max: usize },
    #[error("contains a control character: remove it")]
    ControlCharacter,
    #[error("contains ';' or '=', which would end the value in CNI_ARGS: remove it")]
    CniSeparator,
    #[error("no value of this enum is known by that number: send one of the CRI's runtime.v1")]
    UnknownEnum,
    #[error("not an absolute path: start it with /")]
    NotAbsolute,
    #[error("contains a '..' component: write the path it means")]
    DotDot,
    #[error("this is a Linux node: leave the field out")]
    Windows,

    #[error("the kernel takes at most 64 bytes (__NEW_UTS_LEN): shorten it")]
    HostnameLength,
    #[error("not a host's name: letters, digits, '_' and inner '-', in parts of 1 to 63 joined by '.'")]
    HostnameForm,
    #[error(
        "the pod shares the node's UTS namespace and would rename the node: leave it empty, or use network POD"
    )]
    HostnameOnNode,

    #[error("not an IP address: DNS servers are given by address")]
    DnsServer,
    #[error(
        "contains white space or a comment sign, which would start another line or word of resolv.conf: remove it"
    )]
    ResolvConf,

    #[error("not a port: use 1 to 65535")]
    ContainerPort,
    #[error("not a port: use 1 to 65535, or 0 for none")]
    HostPort,
    #[error("not an IP address: leave it empty for all addresses of the node")]
    HostIp,
    #[error(
        "the pod shares the node's network, so its container port is the node's port: make the two equal"
    )]
    HostPortOnNode,
    #[error("already leads to container port {other}: give one of them another host port")]
    HostPortTaken { other: u16 },

    #[error(
        "not a sysctl of a pod's own namespaces (net.*, the kernel.shm*, kernel.msg*, kernel.sem* of IPC, fs.mqueue.*, kernel.domainname): set it on the node"
    )]
    SysctlNotNamespaced,
    #[error("not the name of a sysctl: use words joined by '.' or '/', as sysctl(8)")]
    SysctlName,
    #[error(
        "would change the node, whose network namespace the pod shares: leave it out, or use network POD"
    )]
    SysctlOnNodeNetwork,
    #[error("would change the node, whose IPC namespace the pod shares: leave it out, or use ipc POD")]
    SysctlOnNodeIpc,
    #[error("would change the node, whose UTS namespace the pod shares: leave it out, or use network POD")]
    SysctlOnNodeUts,
    #[error("the pod's host name has a field of its own: use config.hostname")]
    SysctlHostname,
    #[error("given twice, once with '.' and once with '/': keep one")]
    SysctlTwice,

    #[error(
        "TARGET joins a container's namespace and means nothing for a sandbox: use POD, CONTAINER (pid) or NODE"
    )]
    NamespaceTarget,
    #[error("a pod's containers share this namespace: use POD or NODE")]
    NamespaceContainer,
    #[error("only for mode TARGET, which a sandbox cannot have: leave it empty")]
    TargetId,

    #[error("a user namespace is POD (with one uid and one gid mapping) or NODE (without): correct the mode")]
    UsernsMode,
    #[error(
        "mode NODE shares the node's user namespace and maps nothing: remove the mappings, or use mode POD"
    )]
    UsernsNodeWithMappings,
    #[error("mode POD needs exactly one mapping here: give one, or use mode NODE")]
    MappingCount,
    #[error("the pod's id 0 must be mapped: let container_id be 0")]
    MappingWithoutRoot,
    #[error("maps nothing: let the length be 1 or more")]
    MappingEmpty,
    #[error("reaches beyond 4294967294, the last id there is: lower host_id or the length")]
    MappingOverflow,
    #[error("the gids must be mapped as the uids are ({uids}): make the two equal")]
    MappingsDiffer { uids: String },
    #[error(
        "a pod with a user namespace cannot share the node's network: its root does not own that network namespace and could not mount sysfs (KEP-127). Use network POD, or userns mode NODE"
    )]
    UsernsOnNodeNetwork,
    #[error(
        "a pod with a user namespace cannot share the node's pid namespace: it could not mount proc (KEP-127). Use pid POD or CONTAINER, or userns mode NODE"
    )]
    UsernsOnNodePid,
    #[error(
        "a pod with a user namespace cannot share the node's IPC namespace: its root does not own it (KEP-127). Use ipc POD, or userns mode NODE"
    )]
    UsernsOnNodeIpc,

    #[error("not an id: use 0 to 4294967294")]
    IdRange,
    #[error("not mapped in the pod's user namespace: choose one below {length}")]
    IdUnmapped { length: u32 },
    #[error("run_as_group needs run_as_user beside it (CRI): set both")]
    GroupWithoutUser,
    #[error("a file is named, but the profile type is not Localhost: clear it, or set Localhost")]
    RefWithoutLocalhost,
    #[error(
        "not a seccomp profile: use \"runtime/default\", \"unconfined\" or \"localhost/\" and an absolute path"
    )]
    SeccompPath,
    #[error(
        "AppArmor is not enabled on this node, the profile cannot be applied: leave it out, or use a node with AppArmor"
    )]
    AppArmorOff,
    #[error("AppArmor profiles are not applied to the infra container: use Unconfined")]
    AppArmorUnsupported,

    #[error("a terminal has one stream for both: leave stderr out, it comes with stdout")]
    StderrOfTerminal,
    #[error("no stream is asked for: set one of the three")]
    NoStream,

    #[error("out of range: use {min} to {max}, or 0 for unset")]
    Range { min: i64, max: i64 },
    #[error("not a quota: use 1000 microseconds or more, -1 for no limit, or 0 for unset")]
    CpuQuota,
    #[error("not a limit: use a positive number of bytes, or 0 for unset")]
    MemoryLimit,
    #[error(
        "not a limit: use at least memory_limit_in_bytes (swap counts memory too), -1 for no limit, or 0 for unset"
    )]
    SwapLimit,
    #[error("not a list of numbers such as \"0-3,8\": correct it")]
    CpuList,
    #[error("not a page size such as \"2MB\" or \"1GB\": correct it")]
    PageSize,
    #[error("given twice: keep one")]
    Twice,
    #[error("contains a NUL byte, which ends a string for the kernel: remove it")]
    Nul,
    #[error("contains '=', which ends a variable's name: remove it")]
    EnvName,
    #[error("longer than {max} bytes together: pass fewer or shorter ones")]
    TooMuch { max: usize },
    #[error("would cover the container's whole root: mount beneath it")]
    MountOnRoot,
    #[error("a mount has one source: give host_path or image, not both")]
    TwoSources,
    #[error("a mount needs a source: give host_path or image")]
    NoSource,
    #[error("only for a mount with an image: leave it empty")]
    SubPathWithoutImage,
    #[error("not beneath the image's root: write a relative path without '..'")]
    SubPath,
    #[error("an image is mounted private to the container: use PROPAGATION_PRIVATE")]
    ImagePropagation,
    #[error("an image is mounted read-only, whatever it is asked for (CRI): set readonly")]
    ImageWritable,
    #[error("recursive_read_only needs readonly beside it (CRI): set both, or neither")]
    RecursiveWithoutReadonly,
    #[error("recursive_read_only needs PROPAGATION_PRIVATE (CRI): correct one of them")]
    RecursivePropagation,
    #[error("not a mount option that a volume may have: use nosuid, nodev, noexec, or fields of their own")]
    MountOption,
    #[error("the pod has the node's user namespace, nothing is mapped: leave it empty")]
    MappingWithoutUserns,
    #[error("not the pod's mapping ({pod}), by which its mounts are mapped: make the two equal")]
    MappingNotPods { pod: String },
    #[error("not permissions of a device: use letters of \"rwm\", each once")]
    DevicePermissions,
    #[error("not a device's CDI name: write vendor/class=device, such as \"example.com/gpu=0\"")]
    CdiName,
    #[error("given both, and only one may be (CRI): clear one of run_as_user and run_as_username")]
    TwoUsers,
    #[error("not a user's name or number in the image: remove ':' and white space")]
    UserName,
    #[error("not a capability: use the names of capabilities(7), with or without CAP_, or ALL")]
    Capability,
    #[error("the pod is not privileged: set privileged in the pod's security context too, or in neither")]
    PrivilegedInPod,
    #[error("containers share the pod's namespace, which is {pod}: make the two equal")]
    NotThePods { pod: &'static str },
    #[error("the pod does not share the node's pid namespace: use NODE for the pod too")]
    PidNode,
    #[error("mode TARGET needs the id of a container of the pod: set it")]
    TargetMissing,
    #[error("only for pid mode TARGET: leave it empty")]
    TargetUnused,
    #[error(
        "not an AppArmor profile: use \"runtime/default\", \"unconfined\" or \"localhost/\" and a loaded profile's name"
    )]
    AppArmorProfile,
    #[error(
        "the default profile is not loaded ({reason}): mend that and restart sandboxd, load a profile and use Localhost, or use Unconfined"
    )]
    AppArmorNoDefault { reason: String },
    #[error("not part of an SELinux label: letters, digits and \"_.,:-\" only")]
    SelinuxLabel,

    #[error("not the name of a cgroup file, such as \"memory.high\": correct it")]
    UnifiedName,
}
