//! Development tasks: `cargo xtask <task>`.
//!
//! Small on purpose: it is compiled before anything else on a fresh machine. What talks to the daemon
//! (the demo, the benches) is a program of the `tests` crate, which a task here builds and becomes.

#![forbid(unsafe_code)]

mod build;
mod cri_table;
mod deps;
mod ebpf;
mod programs;
mod run;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Development tasks of sandboxd")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The demo: a pod in the wrong order, the same pod in the right one, the console. Leaves nothing.
    Demo(programs::Demo),
    /// All tests, with what they need installed first.
    Test(test::Options),
    /// The observer and the flow on other kernels, under QEMU.
    VmTest(vm::Options),
    /// Latency, memory and cost of a capability check.
    Bench(programs::Bench),
    /// Records the session that the console's panels are tested with: a real daemon, real pods.
    RecordSession(programs::RecordSession),
    /// The eBPF object alone.
    BuildEbpf {
        /// Optimised and without debug information beyond BTF.
        #[arg(long)]
        release: bool,
    },
    /// docs/cri.md: each rpc and field of CRI with the tests that show it.
    CriTable(cri_table::Options),
    /// Everything that is installed: the object, the shim, the daemon and the console, in release.
    Build,
    /// What is missing on this machine; installs it where it can.
    Deps {
        /// Only says it.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo(options) => programs::demo(&options),
        Task::Test(options) => test::test(&options),
        Task::VmTest(options) => vm::vm_test(&options),
        Task::Bench(options) => programs::bench(&options),
        Task::RecordSession(options) => programs::record_session(&options),
        Task::BuildEbpf { release } => ebpf::build_ebpf(release).map(|path| println!("{}", path.display())),
        Task::CriTable(options) => cri_table::cri_table(&options),
        Task::Build => deps::ensure(&deps::BUILD).and_then(|()| build::release().map(drop)),
        Task::Deps { check } => deps::all(check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
