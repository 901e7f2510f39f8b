//! The metrics there are: cAdvisor's names and labels, which dashboards and kubelet's tests know, as far as
//! they can be read without polling.
//!
//! Left out: load averages and whatever else only a poll can tell, merged and queued requests and sector
//! counts of CFQ (a scheduler that kernels no longer have), TCP and UDP states.

use sandboxd_api::cri::{MetricDescriptor, MetricType};

/// The labels of every metric. "id" is the cgroup's path, "name" the container's id; "container" is "POD" for
/// what a pod uses as a whole.
pub(super) const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// A metric that may be there.
#[derive(Debug)]
pub(super) struct Known {
    pub name: &'static str,
    pub help: &'static str,
    /// Labels beside [`LABELS`].
    pub labels: &'static [&'static str],
    pub kind: MetricType,
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) static $id: Known = Known {
            name: $name,
            help: $help,
            labels: &[$($label),*],
            kind: MetricType::$kind,
        };)*
        static ALL: &[&Known] = &[$(&$id),*];
    };
}

metrics! {
    LAST_SEEN Gauge "container_last_seen" [] "Last time a container was seen, in seconds since the epoch.";
    START_TIME Gauge "container_start_time_seconds" []
        "Start time of the container, in seconds since the epoch.";

    CPU_USAGE Counter "container_cpu_usage_seconds_total" ["cpu"] "Cumulative CPU time consumed in seconds.";
    CPU_USER Counter "container_cpu_user_seconds_total" [] "Cumulative user CPU time consumed in seconds.";
    CPU_SYSTEM Counter "container_cpu_system_seconds_total" []
        "Cumulative system CPU time consumed in seconds.";
    CPU_PERIODS Counter "container_cpu_cfs_periods_total" [] "Number of elapsed enforcement periods.";
    CPU_THROTTLED_PERIODS Counter "container_cpu_cfs_throttled_periods_total" []
        "Number of throttled periods.";
    CPU_THROTTLED Counter "container_cpu_cfs_throttled_seconds_total" []
        "Total time the container has been throttled, in seconds.";

    MEMORY_USAGE Gauge "container_memory_usage_bytes" []
        "Current memory usage in bytes, whenever it was last accessed.";
    MEMORY_MAX_USAGE Gauge "container_memory_max_usage_bytes" [] "Highest memory usage seen, in bytes.";
    MEMORY_WORKING_SET Gauge "container_memory_working_set_bytes" [] "Current working set in bytes.";
    MEMORY_RSS Gauge "container_memory_rss" [] "Anonymous memory in bytes.";
    MEMORY_CACHE Gauge "container_memory_cache" [] "Page cache in bytes.";
    MEMORY_MAPPED Gauge "container_memory_mapped_file" [] "Mapped files in bytes.";
    MEMORY_KERNEL Gauge "container_memory_kernel_usage" [] "Kernel memory in bytes.";
    MEMORY_SWAP Gauge "container_memory_swap" [] "Swap in use, in bytes.";
    MEMORY_ACTIVE_FILE Gauge "container_memory_total_active_file_bytes" [] "Active page cache in bytes.";
    MEMORY_INACTIVE_FILE Gauge "container_memory_total_inactive_file_bytes" [] "Inactive page cache in bytes.";
    MEMORY_FAILCNT Counter "container_memory_failcnt" [] "Number of times the memory limit was hit.";
    MEMORY_FAILURES Counter "container_memory_failures_total" ["failure_type", "scope"] "Page faults.";
    OOM_EVENTS Counter "container_oom_events_total" []
        "Number of processes that the kernel killed for lack of memory.";

    HUGETLB_USAGE Gauge "container_hugetlb_usage_bytes" ["pagesize"] "Huge pages in use, in bytes.";
    HUGETLB_MAX_USAGE Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "Highest use of huge pages seen, in bytes.";

    FS_USAGE Gauge "container_fs_usage_bytes" ["device"] "Bytes the container has written to its file system.";
    FS_LIMIT Gauge "container_fs_limit_bytes" ["device"] "Size of the file system it writes to, in bytes.";
    FS_INODES Gauge "container_fs_inodes_total" ["device"] "Inodes of the file system it writes to.";
    FS_INODES_FREE Gauge "container_fs_inodes_free" ["device"] "Free inodes of the file system it writes to.";
    FS_READ_BYTES Counter "container_fs_reads_bytes_total" ["device"] "Cumulative bytes read.";
    FS_READS Counter "container_fs_reads_total" ["device"] "Cumulative number of reads.";
    FS_WRITE_BYTES Counter "container_fs_writes_bytes_total" ["device"] "Cumulative bytes written.";
    FS_WRITES Counter "container_fs_writes_total" ["device"] "Cumulative number of writes.";
    BLKIO Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"]
        "Bytes read from and written to block devices.";

    NET_RX_BYTES Counter "container_network_receive_bytes_total" ["interface"] "Cumulative bytes received.";
    NET_RX_PACKETS Counter "container_network_receive_packets_total" ["interface"]
        "Cumulative packets received.";
    NET_RX_DROPPED Counter "container_network_receive_packets_dropped_total" ["interface"]
        "Cumulative packets dropped while receiving.";
    NET_RX_ERRORS Counter "container_network_receive_errors_total" ["interface"]
        "Cumulative errors while receiving.";
    NET_TX_BYTES Counter "container_network_transmit_bytes_total" ["interface"] "Cumulative bytes sent.";
    NET_TX_PACKETS Counter "container_network_transmit_packets_total" ["interface"] "Cumulative packets sent.";
    NET_TX_DROPPED Counter "container_network_transmit_packets_dropped_total" ["interface"]
        "Cumulative packets dropped while sending.";
    NET_TX_ERRORS Counter "container_network_transmit_errors_total" ["interface"]
        "Cumulative errors while sending.";

    PROCESSES Gauge "container_processes" [] "Number of processes in the container.";
    THREADS Gauge "container_threads" [] "Number of threads in the container.";
    THREADS_MAX Gauge "container_threads_max" [] "Number of threads it may have; 0: no limit.";
    DESCRIPTORS Gauge "container_file_descriptors" [] "Number of open file descriptors.";
    SOCKETS Gauge "container_sockets" [] "Number of open sockets.";
    ULIMITS Gauge "container_ulimits_soft" ["ulimit"] "Soft limits of the container's first process.";

    PRESSURE_CPU_WAITING Counter "container_pressure_cpu_waiting_seconds_total" []
        "Time in which some tasks have waited for CPU, in seconds.";
    PRESSURE_CPU_STALLED Counter "container_pressure_cpu_stalled_seconds_total" []
        "Time in which no task could go on for want of CPU, in seconds.";
    PRESSURE_MEMORY_WAITING Counter "container_pressure_memory_waiting_seconds_total" []
        "Time in which some tasks have waited for memory, in seconds.";
    PRESSURE_MEMORY_STALLED Counter "container_pressure_memory_stalled_seconds_total" []
        "Time in which no task could go on for want of memory, in seconds.";
    PRESSURE_IO_WAITING Counter "container_pressure_io_waiting_seconds_total" []
        "Time in which some tasks have waited for I/O, in seconds.";
    PRESSURE_IO_STALLED Counter "container_pressure_io_stalled_seconds_total" []
        "Time in which no task could go on for want of I/O, in seconds.";

    SPEC_CPU_PERIOD Gauge "container_spec_cpu_period" [] "CPU period of the container.";
    SPEC_CPU_QUOTA Gauge "container_spec_cpu_quota" [] "CPU quota of the container.";
    SPEC_CPU_SHARES Gauge "container_spec_cpu_shares" [] "CPU shares of the container.";
    SPEC_MEMORY_LIMIT Gauge "container_spec_memory_limit_bytes" [] "Memory limit in bytes; 0: none.";
    SPEC_MEMORY_RESERVATION Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory reservation in bytes; 0: none.";
    SPEC_MEMORY_SWAP Gauge "container_spec_memory_swap_limit_bytes" []
        "Limit of memory and swap together in bytes; 0: none.";
}

/// The answer of ListMetricDescriptors.
pub(super) fn all() -> Vec<MetricDescriptor> {
    let wire = |known: &&Known| MetricDescriptor {
        name: known.name.to_owned(),
        help: known.help.to_owned(),
        label_keys: LABELS.iter().chain(known.labels).map(|key| (*key).to_owned()).collect(),
    };
    ALL.iter().map(wire).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_prometheus() {
        let names: BTreeSet<&str> = ALL.iter().map(|known| known.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name twice");
        for known in ALL {
            assert!(known.name.starts_with("container_") && known.help.ends_with('.'), "{known:?}");
            let total = known.name.ends_with("_total") && !known.name.contains("inodes");
            let counter = known.kind == MetricType::Counter;
            assert!(counter == total || known.name.ends_with("_failcnt"), "{known:?}");
        }
    }
}
