//! A large image from a registry on loopback: pulled and unpacked by the daemon, and by `skopeo copy` with
//! `umoci unpack`, turn about.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use sandboxd_tests::bins;
use sandboxd_tests::image::{Image, Layer};
use sandboxd_tests::node::{Node, Options};
use sandboxd_tests::registry::{self, Registry};

use crate::report::Report;
use crate::stats::Series;

const LAYERS: u64 = 10;
/// Of each layer, before it is compressed: programs and libraries, text, and what no compression makes smaller.
const BINARY: u64 = 25 << 20;
const TEXT: u64 = 20 << 20;
const RANDOM: u64 = 5 << 20;
/// A file larger than this would be a layer of its own.
const MAX_FILE: u64 = 16 << 20;

/// Wall and CPU of one way.
#[derive(Debug, Default)]
struct Way {
    wall: Series,
    cpu: Series,
}

impl Way {
    fn push(&mut self, wall: Duration, cpu: Duration) {
        self.wall.push_time(wall);
        self.cpu.push_time(cpu);
    }
}

/// Measures it on a node of its own, whose directories are on a disk.
pub async fn against_skopeo(rounds: u32, report: &mut Report) -> Result<()> {
    if rounds == 0 {
        return Ok(());
    }
    if let Some(reason) = missing() {
        // A row that is not there is easily overlooked.
        eprintln!("SKIPPED: pull of a large image: {reason}");
        report.note(&format!("no pull of a large image: {reason}"));
        return Ok(());
    }
    let node = Node::start(Options::default()).await?;
    let outcome = compare(&node, rounds, report).await;
    let left = node.stop().await?;
    left.iter().for_each(|leftover| report.note(&format!("left behind: {leftover}")));
    outcome
}

fn missing() -> Option<String> {
    let umoci = || bins::on_path("umoci").is_none().then(|| "no umoci".to_owned());
    Registry::missing().or_else(umoci)
}

async fn compare(node: &Node, rounds: u32, report: &mut Report) -> Result<()> {
    let registry = Registry::start(registry::Options::default())?;
    let archive = node.path("large.tar");
    let (size, files) = large()?;
    let written = files.write(&archive)?;
    let reference = registry.push(&archive, "bench/large:1")?;
    fs::remove_file(&archive)?;
    let (mut ours, mut theirs) = (Way::default(), Way::default());
    let (mut skopeo, mut umoci) = (Series::default(), Series::default());
    let (mut wall, mut cpu) = (Series::default(), Series::default());
    for _ in 0..rounds {
        let (one, other) = (by_daemon(node, &reference).await?, by_tools(node, &reference).await?);
        ours.push(one.0, one.1);
        theirs.push(other.0 + other.1, other.2);
        skopeo.push_time(other.0);
        umoci.push_time(other.1);
        wall.push(one.0.as_secs_f64() / (other.0 + other.1).as_secs_f64());
        cpu.push(one.1.as_secs_f64() / other.2.as_secs_f64());
    }
    report.group(&format!(
        "Pull and unpack of {} MB in {LAYERS} gzip layers ({} MB)",
        size / 1_000_000,
        written.size / 1_000_000
    ));
    report.row("sandboxd image pull, durable at its end", "ms", &ours.wall);
    report.row("  CPU", "ms", &ours.cpu);
    report.row("skopeo copy and umoci unpack, not synced", "ms", &theirs.wall);
    report.row("  skopeo copy", "ms", &skopeo);
    report.row("  umoci unpack", "ms", &umoci);
    report.row("  CPU", "ms", &theirs.cpu);
    report.row("sandboxd's part of their time", "ratio", &wall);
    report.row("  of their CPU", "ratio", &cpu);
    Ok(())
}

/// Wall and CPU, the daemon's and the client's.
async fn by_daemon(node: &Node, reference: &str) -> Result<(Duration, Duration)> {
    let daemon = [node.daemon_pid().context("no daemon")?];
    settle(node)?;
    let (children, ticks) = (children()?, cpu_ticks(&daemon));
    let begun = Instant::now();
    run(node.sandboxd(&["image", "pull", "--plain-http", "--quiet", reference])).await?;
    let wall = begun.elapsed();
    let cpu = self::children()?.saturating_sub(children) + of_ticks(cpu_ticks(&daemon) - ticks);
    run(node.sandboxd(&["image", "remove", reference])).await?;
    Ok((wall, cpu))
}

/// Wall of the copy, wall of the unpacking, CPU of both.
async fn by_tools(node: &Node, reference: &str) -> Result<(Duration, Duration, Duration)> {
    let (layout, bundle) = (node.path("layout"), node.path("unpacked"));
    settle(node)?;
    let cpu = children()?;
    let begun = Instant::now();
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    copy.arg(format!("docker://{reference}")).arg(format!("oci:{}:large", layout.display()));
    run(copy).await?;
    let copied = begun.elapsed();
    let begun = Instant::now();
    let mut unpack = Command::new("umoci");
    unpack.args(["unpack", "--image"]).arg(format!("{}:large", layout.display())).arg(&bundle);
    run(unpack).await?;
    let unpacked = begun.elapsed();
    let cpu = children()?.saturating_sub(cpu);
    for dir in [layout, bundle] {
        fs::remove_dir_all(dir)?;
    }
    Ok((copied, unpacked, cpu))
}

/// Nobody pays for what another left to be written.
fn settle(node: &Node) -> Result<()> {
    let dir = fs::File::open(&node.scope.dir)?;
    nix::unistd::syncfs(dir).context("syncing the file system")
}

/// CPU of the children that were waited for.
fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let of = |time: nix::sys::time::TimeVal| {
        let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
        Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or_default()) + Duration::from_micros(micros)
    };
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

/// utime + stime of the processes (proc_pid_stat(5), fields 14 and 15), those of threads that have ended too.
fn cpu_ticks(pids: &[i32]) -> u64 {
    let ticks = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let numbers: Vec<u64> = fields.split(' ').skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        Some(numbers.iter().sum::<u64>())
    };
    pids.iter().filter_map(ticks).sum()
}

/// USER_HZ is 100 on every architecture Rust runs on.
fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}

async fn run(command: Command) -> Result<()> {
    let mut command = tokio::process::Command::from(command);
    let program = command.as_std().get_program().to_owned();
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("running {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} ended with {}: {said}", program.display(), output.status);
    Ok(())
}

/// An image of this machine's own files, and how much it is before it is compressed.
fn large() -> Result<(u64, Image)> {
    let mut binary = Found::below(&["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec"])?;
    let mut text = Found::below(&["/usr/share", "/usr/include"])?;
    let mut image = Image::new("sandboxd.test/large:1");
    let mut size = 0;
    for n in 0..LAYERS {
        let mut layer = Layer::default();
        for (found, wanted) in [(&mut binary, BINARY), (&mut text, TEXT)] {
            let taken;
            (layer, taken) = found.take(layer, wanted)?;
            size += taken;
        }
        let mut random = Vec::new();
        fs::File::open("/dev/urandom")?.take(RANDOM).read_to_end(&mut random)?;
        image = image.layer(layer.file(&format!("srv/random{n}"), 0o644, (0, 0), random));
        size += RANDOM;
    }
    Ok((size, image))
}

/// Files of the machine, given out in order and again from the first when there are no more.
#[derive(Debug)]
struct Found {
    files: Vec<PathBuf>,
    next: usize,
}

impl Found {
    fn below(roots: &[&str]) -> Result<Self> {
        let (mut files, mut left): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
        left.extend(roots.iter().map(PathBuf::from).filter(|root| root.is_dir()));
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                let entry = entry?;
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    left.push(entry.path());
                } else if meta.is_symlink() || (meta.is_file() && meta.len() <= MAX_FILE) {
                    files.push(entry.path());
                }
            }
        }
        ensure!(!files.is_empty(), "no files below {roots:?}");
        files.sort();
        Ok(Self { files, next: 0 })
    }

    /// Adds files of so many bytes; how many it were.
    fn take(&mut self, mut layer: Layer, wanted: u64) -> Result<(Layer, u64)> {
        let (mut taken, mut dir) = (0, PathBuf::new());
        while taken < wanted {
            let path = &self.files[self.next % self.files.len()];
            self.next += 1;
            // "/usr/bin/x" as "usr/bin/x".
            let name = path.strip_prefix("/").unwrap_or(path);
            let text = name.to_str().unwrap_or_default();
            let (Some(parent), false) = (name.parent(), text.is_empty()) else { continue };
            if dir != parent {
                layer = layer.dir(&parent.to_string_lossy(), 0o755, (0, 0));
                parent.clone_into(&mut dir);
            }
            let (next, size) = add(layer, path, text)?;
            layer = next;
            taken += size;
        }
        Ok((layer, taken))
    }
}

fn add(layer: Layer, path: &Path, name: &str) -> Result<(Layer, u64)> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        let target = fs::read_link(path)?;
        let target = target.to_string_lossy();
        // A header has 100 bytes for it.
        return Ok(if target.len() < 100 { (layer.symlink(name, &target), 512) } else { (layer, 0) });
    }
    let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let size = content.len() as u64 + 512;
    Ok((layer.file(name, meta.mode() & 0o7777, (0, 0), content), size))
}
