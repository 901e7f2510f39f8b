//! What a cgroup has used, read when it is asked for: the same figures from v1's files and v2's.
//!
//! A file that is not there is a figure that is not known (`None`, or an empty list): a controller may be
//! missing, a kernel too old. Only a cgroup that is gone has no figures at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Cgroups;
use super::files::{self, keyed};
use super::layout::Layout;

/// At this many bytes and above a v1 limit of memory means none (`PAGE_COUNTER_MAX`, in pages of any size).
const NO_LIMIT: u64 = 1 << 62;

/// Figures of a cgroup and what is inside it. Times are in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    /// Processes, and tasks (their threads).
    pub processes: u64,
    pub tasks: Option<u64>,
    /// `None`: no limit, or no controller.
    pub tasks_max: Option<u64>,
    pub io: Vec<Io>,
    pub hugepages: Vec<Hugepages>,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    pub total: u64,
    pub user: Option<u64>,
    pub system: Option<u64>,
    pub periods: Option<u64>,
    pub throttled_periods: Option<u64>,
    pub throttled: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage: u64,
    pub max_usage: Option<u64>,
    /// `None`: no limit.
    pub limit: Option<u64>,
    pub hits: Option<u64>,
    pub cache: u64,
    pub rss: u64,
    pub mapped: u64,
    pub active_file: u64,
    pub inactive_file: u64,
    pub kernel: Option<u64>,
    pub faults: u64,
    pub major_faults: u64,
    pub swap: Option<u64>,
    /// Of swap alone; `None`: no limit.
    pub swap_limit: Option<u64>,
    pub oom_kills: Option<u64>,
}

impl Memory {
    /// What could not be taken back without harm, as kubelet's eviction counts it.
    #[must_use]
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file)
    }
}

/// What was done to a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Io {
    pub major: u32,
    pub minor: u32,
    /// "/dev/vda"; empty where the device is gone.
    pub device: String,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hugepages {
    /// "2MB".
    pub size: String,
    pub usage: u64,
    /// v1 alone counts it.
    pub max_usage: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

/// Percent of the last 10, 60 and 300 seconds, and microseconds in all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

impl Cgroups {
    /// What the cgroup at this path (as [`super::Planned::path`] says it) has used; `None`: it is gone. Reads
    /// some twenty files: well below a millisecond, but it blocks.
    #[must_use]
    pub fn usage(&self, path: &str) -> Option<Usage> {
        read(&self.inner.layout, path.trim_start_matches('/'))
    }

    /// The processes of the cgroup at this path, and of those inside it: for display, never to act on.
    #[must_use]
    pub fn pids(&self, path: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        if let Some(mount) = self.inner.layout.mounts().next() {
            // A cgroup that goes meanwhile has none.
            let _ = files::processes(&mount.join(path.trim_start_matches('/')), 0, &mut pids);
        }
        pids
    }
}

fn read(layout: &Layout, path: &str) -> Option<Usage> {
    let place = |controller: &str| match &layout.v2 {
        Some(mount) if layout.is_v2() => Place { dir: mount.join(path), v2: true },
        v2 => match (layout.v1_of(controller), v2) {
            (Some(hierarchy), _) => Place { dir: hierarchy.mount.join(path), v2: false },
            (None, v2) => Place { dir: v2.as_deref().unwrap_or(Path::new("/")).join(path), v2: true },
        },
    };
    let first = layout.mounts().next()?.join(path);
    if !first.join("cgroup.procs").exists() {
        return None;
    }
    let pids = place("pids");
    let stalls = |file: &str| {
        let path = layout.v2.as_ref()?.join(path).join(file);
        fs::read_to_string(path).ok().map(|text| pressure(&text))
    };
    let mut processes = Vec::new();
    // A cgroup that goes meanwhile has none.
    let _ = files::processes(&first, 0, &mut processes);
    Some(Usage {
        cpu: cpu(&place("cpuacct"), &place("cpu")),
        memory: memory(&place("memory")),
        processes: processes.len() as u64,
        tasks: pids.number("pids.current"),
        tasks_max: pids.number("pids.max"),
        io: io(&place("blkio")),
        hugepages: hugepages(&place("hugetlb")),
        cpu_pressure: stalls("cpu.pressure"),
        memory_pressure: stalls("memory.pressure"),
        io_pressure: stalls("io.pressure"),
    })
}

/// A cgroup's directory in the hierarchy of a controller.
struct Place {
    dir: PathBuf,
    v2: bool,
}

impl Place {
    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(file)).ok()
    }

    /// A file of one number; "max" is none.
    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }
}

fn cpu(acct: &Place, cpu: &Place) -> Option<Cpu> {
    if acct.v2 {
        let text = acct.text("cpu.stat")?;
        let nanos = |key| keyed(&text, key).map(|usec| usec.saturating_mul(1000));
        return Some(Cpu {
            total: nanos("usage_usec")?,
            user: nanos("user_usec"),
            system: nanos("system_usec"),
            periods: keyed(&text, "nr_periods"),
            throttled_periods: keyed(&text, "nr_throttled"),
            throttled: nanos("throttled_usec"),
        });
    }
    let throttling = cpu.text("cpu.stat").unwrap_or_default();
    Some(Cpu {
        total: acct.number("cpuacct.usage")?,
        user: acct.number("cpuacct.usage_user"),
        system: acct.number("cpuacct.usage_sys"),
        periods: keyed(&throttling, "nr_periods"),
        throttled_periods: keyed(&throttling, "nr_throttled"),
        throttled: keyed(&throttling, "throttled_time"),
    })
}

fn memory(place: &Place) -> Option<Memory> {
    let stat = place.text("memory.stat")?;
    let of = |key| keyed(&stat, key).unwrap_or(0);
    if place.v2 {
        let events = place.text("memory.events").unwrap_or_default();
        // "kernel" is there from 5.18 on; before it its parts.
        let parts = || Some(of("kernel_stack") + keyed(&stat, "slab")?);
        return Some(Memory {
            usage: place.number("memory.current")?,
            max_usage: place.number("memory.peak"),
            limit: place.number("memory.max"),
            hits: keyed(&events, "max"),
            cache: of("file"),
            rss: of("anon"),
            mapped: of("file_mapped"),
            active_file: of("active_file"),
            inactive_file: of("inactive_file"),
            kernel: keyed(&stat, "kernel").or_else(parts),
            faults: of("pgfault"),
            major_faults: of("pgmajfault"),
            swap: place.number("memory.swap.current"),
            swap_limit: place.number("memory.swap.max"),
            oom_kills: keyed(&events, "oom_kill"),
        });
    }
    let limited = |file| place.number(file).filter(|limit| *limit < NO_LIMIT);
    let usage = place.number("memory.usage_in_bytes")?;
    let limit = limited("memory.limit_in_bytes");
    let both = limited("memory.memsw.limit_in_bytes");
    Some(Memory {
        usage,
        max_usage: place.number("memory.max_usage_in_bytes"),
        limit,
        hits: place.number("memory.failcnt"),
        cache: of("total_cache"),
        rss: of("total_rss"),
        mapped: of("total_mapped_file"),
        active_file: of("total_active_file"),
        inactive_file: of("total_inactive_file"),
        kernel: place.number("memory.kmem.usage_in_bytes"),
        faults: of("total_pgfault"),
        major_faults: of("total_pgmajfault"),
        swap: place.number("memory.memsw.usage_in_bytes").map(|both| both.saturating_sub(usage)),
        swap_limit: both.zip(limit).map(|(both, limit)| both.saturating_sub(limit)),
        oom_kills: place.text("memory.oom_control").and_then(|text| keyed(&text, "oom_kill")),
    })
}

/// "8:0 Read 4096" of v1, "8:0 rbytes=4096 wbytes=0 rios=1 wios=0" of v2.
fn io(place: &Place) -> Vec<Io> {
    let mut all: Vec<Io> = Vec::new();
    if place.v2 {
        for line in place.text("io.stat").unwrap_or_default().lines() {
            let mut fields = line.split(' ');
            let Some(io) = fields.next().and_then(|numbers| device(&mut all, numbers)) else { continue };
            for (key, value) in fields.filter_map(|f| f.split_once('=')) {
                let value = value.parse().unwrap_or(0);
                match key {
                    "rbytes" => io.read_bytes = value,
                    "wbytes" => io.write_bytes = value,
                    "rios" => io.reads = value,
                    "wios" => io.writes = value,
                    _ => {}
                }
            }
        }
        return all;
    }
    // The files of the throttling policy count whatever the scheduler is.
    for (file, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in place.text(file).unwrap_or_default().lines() {
            let mut fields = line.split(' ');
            let (Some(numbers), Some(operation), Some(value)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Some(io) = device(&mut all, numbers) else { continue };
            let value = value.parse().unwrap_or(0);
            match (operation, bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.write_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    all
}

/// The entry of a device, made where there is none.
fn device<'a>(all: &'a mut Vec<Io>, numbers: &str) -> Option<&'a mut Io> {
    let (major, minor) = numbers.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let at = all.iter().position(|io| (io.major, io.minor) == (major, minor)).unwrap_or_else(|| {
        let name = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
        let name = name.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let device = name.map(|name| format!("/dev/{}", name.replace('!', "/"))).unwrap_or_default();
        all.push(Io { major, minor, device, ..Io::default() });
        all.len() - 1
    });
    all.get_mut(at)
}

fn hugepages(place: &Place) -> Vec<Hugepages> {
    let suffix = if place.v2 { ".current" } else { ".usage_in_bytes" };
    let entries = fs::read_dir(&place.dir).into_iter().flatten().filter_map(Result::ok);
    let sizes: BTreeSet<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    let figures = |size: String| {
        let usage = place.number(&format!("hugetlb.{size}{suffix}"))?;
        let max_usage = place.number(&format!("hugetlb.{size}.max_usage_in_bytes"));
        Some(Hugepages { size, usage, max_usage })
    };
    sizes.into_iter().filter_map(figures).collect()
}

/// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", and "full …".
fn pressure(text: &str) -> Pressure {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
        let field = |key: &str| {
            line.split(' ').find_map(|f| f.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
        };
        Stall {
            avg10: field("avg10").parse().unwrap_or(0.0),
            avg60: field("avg60").parse().unwrap_or(0.0),
            avg300: field("avg300").parse().unwrap_or(0.0),
            total: field("total").parse().unwrap_or(0),
        }
    };
    Pressure { some: stall("some"), full: stall("full") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::FakeV2;
    use super::*;

    #[test]
    fn v2_files_become_figures() {
        let fake = FakeV2::new("cpu memory io pids hugetlb", &["p"], &[]);
        for (file, text) in [
            ("cgroup.procs", "10\n11\n"),
            (
                "cpu.stat",
                "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 7\nnr_throttled 2\n\
                 throttled_usec 90\nnr_bursts 0\nburst_usec 0\n",
            ),
            ("memory.current", "1000\n"),
            ("memory.peak", "1500\n"),
            ("memory.max", "4000\n"),
            ("memory.swap.current", "30\n"),
            ("memory.swap.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\noom_group_kill 0\n"),
            (
                "memory.stat",
                "anon 400\nfile 500\nkernel 77\nfile_mapped 60\ninactive_file 250\nactive_file 100\n\
                 pgfault 9\npgmajfault 1\n",
            ),
            ("pids.current", "5\n"),
            ("pids.max", "max\n"),
            ("io.stat", "7:999 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\nbad\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.rsvd.current", "1\n"),
            ("cpu.pressure", "some avg10=1.50 avg60=0.10 avg300=0.01 total=123\nfull avg10=0.00 total=4\n"),
        ] {
            fs::write(fake.dir.path().join("p").join(file), text).unwrap();
        }
        let usage = fake.cgroups.usage("/p").unwrap();
        let cpu = Cpu {
            total: 5_000_000,
            user: Some(3_000_000),
            system: Some(2_000_000),
            periods: Some(7),
            throttled_periods: Some(2),
            throttled: Some(90_000),
        };
        assert_eq!(usage.cpu, Some(cpu));
        let memory = usage.memory.unwrap();
        assert_eq!((memory.working_set(), memory.rss, memory.kernel), (750, 400, Some(77)));
        assert_eq!((memory.limit, memory.swap, memory.swap_limit), (Some(4000), Some(30), None));
        assert_eq!((memory.hits, memory.oom_kills, memory.max_usage), (Some(4), Some(2), Some(1500)));
        assert_eq!((usage.processes, usage.tasks, usage.tasks_max), (2, Some(5), None));
        let io = Io {
            major: 7,
            minor: 999,
            read_bytes: 10,
            write_bytes: 20,
            reads: 1,
            writes: 2,
            ..Io::default()
        };
        assert_eq!(usage.io, [io]);
        let huge = Hugepages { size: "2MB".into(), usage: 2 << 20, max_usage: None };
        assert_eq!(usage.hugepages, [huge]);
        let pressure = usage.cpu_pressure.unwrap();
        assert_eq!((pressure.some.avg10, pressure.some.total, pressure.full.total), (1.5, 123, 4));
        assert_eq!(usage.io_pressure, None);
        assert_eq!(fake.cgroups.usage("/gone"), None);
    }

    #[test]
    fn v1_counts_devices_by_operation() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write(
            "blkio.throttle.io_service_bytes_recursive",
            "7:999 Read 10\n7:999 Write 20\n7:999 Sync 3\nTotal 30\n",
        );
        write("blkio.throttle.io_serviced_recursive", "7:999 Read 1\n7:999 Write 2\nTotal 3\n");
        let all = io(&Place { dir: dir.path().to_owned(), v2: false });
        let io = Io {
            major: 7,
            minor: 999,
            read_bytes: 10,
            write_bytes: 20,
            reads: 1,
            writes: 2,
            ..Io::default()
        };
        assert_eq!(all, [io]);
    }
}
