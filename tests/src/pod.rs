//! Pod requests, written the way kubelet writes them.

use sandboxd_api::cri::{
    DnsConfig, IdMapping, Int64Value, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol, UserNamespace,
};

/// Where the mapped ids of the pods here begin.
pub const USERNS_BASE: u32 = 1_310_720_000;

/// How many ids kubelet gives a pod.
pub const USERNS_LENGTH: u32 = 65_536;

/// A pod request under construction.
#[derive(Debug, Clone)]
pub struct Pod(pub PodSandboxConfig);

impl Pod {
    /// A pod with what CRI insists on, in the host's user namespace.
    #[must_use]
    pub fn new(name: &str, cgroup_parent: &str) -> Self {
        Self(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: cgroup_parent.to_owned(),
                security_context: Some(LinuxSandboxSecurityContext {
                    // Kubelet's default: each container has a pid namespace of its own.
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        })
    }

    /// `hostUsers: false`: the ids `base..base + length` of the host are the pod's 0 and up.
    #[must_use]
    pub fn userns_at(mut self, base: u32, length: u32) -> Self {
        let line = IdMapping { host_id: base, container_id: 0, length };
        self.namespaces().userns_options =
            Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![line], gids: vec![line] });
        self
    }

    /// `hostUsers: false` with the mapping most tests use.
    #[must_use]
    pub fn userns(self) -> Self {
        self.userns_at(USERNS_BASE, USERNS_LENGTH)
    }

    #[must_use]
    pub fn network(mut self, mode: NamespaceMode) -> Self {
        self.namespaces().network = mode.into();
        self
    }

    #[must_use]
    pub fn pid(mut self, mode: NamespaceMode) -> Self {
        self.namespaces().pid = mode.into();
        self
    }

    #[must_use]
    pub fn ipc(mut self, mode: NamespaceMode) -> Self {
        self.namespaces().ipc = mode.into();
        self
    }

    #[must_use]
    pub fn sysctl(mut self, name: &str, value: &str) -> Self {
        self.linux().sysctls.insert(name.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.0.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.0.metadata.get_or_insert_default().attempt = attempt;
        self
    }

    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        hostname.clone_into(&mut self.0.hostname);
        self
    }

    #[must_use]
    pub fn dns(mut self, servers: &[&str], searches: &[&str], options: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        self.0.dns_config =
            Some(DnsConfig { servers: owned(servers), searches: owned(searches), options: owned(options) });
        self
    }

    #[must_use]
    pub fn port(mut self, protocol: Protocol, host_port: i32, container_port: i32) -> Self {
        self.0.port_mappings.push(PortMapping {
            protocol: protocol.into(),
            container_port,
            host_port,
            host_ip: String::new(),
        });
        self
    }

    #[must_use]
    pub fn run_as(mut self, user: i64, group: i64) -> Self {
        let security = self.security();
        security.run_as_user = Some(Int64Value { value: user });
        security.run_as_group = Some(Int64Value { value: group });
        self
    }

    /// Anything else of the security context.
    #[must_use]
    pub fn with_security(mut self, change: impl FnOnce(&mut LinuxSandboxSecurityContext)) -> Self {
        change(self.security());
        self
    }

    /// Anything else of the Linux part.
    #[must_use]
    pub fn with_linux(mut self, change: impl FnOnce(&mut LinuxPodSandboxConfig)) -> Self {
        change(self.linux());
        self
    }

    /// Anything else.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut PodSandboxConfig)) -> Self {
        change(&mut self.0);
        self
    }

    #[must_use]
    pub fn build(self) -> PodSandboxConfig {
        self.0
    }

    fn linux(&mut self) -> &mut LinuxPodSandboxConfig {
        self.0.linux.get_or_insert_default()
    }

    fn security(&mut self) -> &mut LinuxSandboxSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    fn namespaces(&mut self) -> &mut NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }
}
