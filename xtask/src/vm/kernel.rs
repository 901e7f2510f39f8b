//! Debian's kernels for virtual machines, and what this machine need not have of theirs, through apt, unpacked below
//! the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// A kernel to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// From Debian 12's backports.
    #[value(name = "6.12")]
    V6_12,
}

impl Choice {
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "bookworm-backports",
        }
    }
}

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    pub image: PathBuf,
    /// `lib/modules/VERSION`, with its index.
    pub modules: PathBuf,
    pub version: String,
}

impl Kernel {
    /// The files of these modules and of all they need, in the order of loading. What is built in has none.
    pub fn with_dependencies(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let root = self.modules.ancestors().nth(3).context("modules without a root")?;
        let mut files = Vec::new();
        for module in modules {
            let mut modprobe = Command::new("/sbin/modprobe");
            modprobe.arg("-d").arg(root).args(["-S", &self.version, "--show-depends", module]);
            let shown = run::output(&mut modprobe).with_context(|| format!("no module {module}"))?;
            for file in shown.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let file = PathBuf::from(file.split_whitespace().next().unwrap_or_default());
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    /// A module as insmod takes it: unpacked.
    pub fn module(&self, file: &Path) -> Result<Vec<u8>> {
        if file.extension().is_some_and(|e| e == "xz") {
            let out = Command::new("xz").arg("-dc").arg(file).output().context("running xz")?;
            anyhow::ensure!(out.status.success(), "xz cannot unpack {}", file.display());
            return Ok(out.stdout);
        }
        fs::read(file).with_context(|| format!("reading {}", file.display()))
    }
}

/// Fetches the kernel, unless it is there. The machine's apt sources stay as they are: lists and packages
/// go into a directory of our own.
pub fn fetch(choice: Choice) -> Result<Kernel> {
    let dir = run::target().join("vm").join(choice.name());
    if let Ok(kernel) = unpacked(&dir) {
        return Ok(kernel);
    }
    let apt = Apt::new(&dir, choice.suite())?;
    apt.update()?;
    // The meta package's one dependency is the kernel of the day.
    let meta = "linux-image-cloud-amd64";
    let shown = apt.ask("apt-cache", &["depends", meta])?;
    let package = shown.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.with_context(|| format!("{meta} depends on nothing"))?;
    apt.unpack(package)?;
    let kernel = unpacked(&dir)?;
    // The package's own script would make the index of modules.
    run::run(Command::new("/sbin/depmod").arg("-b").arg(dir.join("root")).arg(&kernel.version))?;
    Ok(kernel)
}

/// Where Debian's AppArmor is unpacked: this machine may have none to load profiles into, and so no parser.
pub fn apparmor() -> Result<PathBuf> {
    let dir = run::target().join("vm/apparmor");
    let root = dir.join("root");
    if !root.join("sbin/apparmor_parser").exists() {
        let apt = Apt::new(&dir, Choice::V6_1.suite())?;
        apt.update()?;
        apt.unpack("apparmor")?;
    }
    Ok(root)
}

fn unpacked(dir: &Path) -> Result<Kernel> {
    let root = dir.join("root");
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| root.join(path));
    let modules = modules.iter().find(|path| path.is_dir()).context("no modules")?;
    let version = fs::read_dir(modules)?.flatten().next().context("no kernel")?.file_name();
    let version = version.to_string_lossy().into_owned();
    let image = root.join("boot").join(format!("vmlinuz-{version}"));
    anyhow::ensure!(image.is_file(), "{} is missing", image.display());
    Ok(Kernel { image, modules: modules.join(&version), version })
}

/// apt with one suite of Debian and directories of its own.
struct Apt {
    dir: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(dir: &Path, suite: &str) -> Result<Self> {
        let mirror = mirror()?;
        for part in ["apt/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let list = dir.join("apt/sources.list");
        fs::write(&list, format!("deb [signed-by={key}] {mirror} {suite} main\n"))?;
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let options = vec![
            set("Dir::Etc::sourcelist", &list),
            set("Dir::Etc::sourceparts", Path::new("/dev/null")),
            set("Dir::State::lists", &dir.join("apt/lists")),
            set("Dir::Cache", &dir.join("apt/cache")),
            "APT::Sandbox::User=root".into(),
        ];
        Ok(Self { dir: dir.to_path_buf(), options })
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command.args(args);
        command
    }

    fn update(&self) -> Result<()> {
        run::run(&mut self.command("apt-get", &["-q", "update"]))
    }

    fn get(&self, args: &[&str]) -> Result<()> {
        run::run(self.command("apt-get", &["-q"]).args(args))
    }

    /// Downloads a package and unpacks it into `root`.
    fn unpack(&self, package: &str) -> Result<()> {
        println!("fetching {package}");
        self.get(&["download", package])?;
        let deb = fs::read_dir(&self.dir)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        let deb = deb.with_context(|| format!("apt left no package in {}", self.dir.display()))?;
        run::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(self.dir.join("root")))?;
        fs::remove_file(&deb).with_context(|| format!("removing {}", deb.display()))
    }

    fn ask(&self, program: &str, args: &[&str]) -> Result<String> {
        run::output(&mut self.command(program, args))
            .with_context(|| format!("{program} {} failed", args.join(" ")))
    }
}

/// The mirror that this machine's own apt sources name for Debian.
fn mirror() -> Result<String> {
    let mut texts = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        for path in parts.flatten().map(|entry| entry.path()) {
            texts.push_str(&fs::read_to_string(path).unwrap_or_default());
            texts.push('\n');
        }
    }
    let words =
        texts.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    let mirror = words
        .filter(|word| word.starts_with("http"))
        .find(|word| word.trim_end_matches('/').ends_with("/debian"));
    mirror.map(str::to_owned).context("no apt source of this machine is a mirror of Debian")
}
