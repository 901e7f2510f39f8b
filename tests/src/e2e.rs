//! Runs one end-to-end test on a node of its own, and fails it when anything is left behind.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::bins;
use crate::node::{Node, Options, report};
use crate::patience::patient;
use crate::skip::{self, Need};

/// Nothing here takes longer on two busy cores.
const LIMIT: Duration = Duration::from_secs(180);

/// Whether a test shares the machine with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Shared,
    /// Alone: it measures, counts, or changes what all nodes share.
    Alone,
}

/// One test.
#[derive(Debug)]
pub struct E2e {
    turn: Turn,
    needs: Vec<Need>,
    options: Options,
}

impl Default for E2e {
    fn default() -> Self {
        Self {
            turn: Turn::Shared,
            needs: vec![Need::Root, Need::CniPlugins, Need::Iptables],
            options: Options::default(),
        }
    }
}

impl E2e {
    /// A test that no other runs beside.
    #[must_use]
    pub fn alone() -> Self {
        Self { turn: Turn::Alone, ..Self::default() }
    }

    /// The machine must have this as well.
    #[must_use]
    pub fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// What is special about the node.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Runs the test.
    ///
    /// # Panics
    /// When the test fails or something is left.
    pub fn run(self, test: impl AsyncFnOnce(&mut Node) -> Result<()>) {
        let name = thread::current().name().unwrap_or("test").to_owned();
        if skip::skipped(&name, &self.needs) {
            return;
        }
        let outcome = self.run_named(&name, test);
        if let Err(error) = outcome {
            panic!("{name}: {error:?}");
        }
    }

    fn run_named(self, name: &str, test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
        let _turn = take_turn(self.turn)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut node = runtime.block_on(Node::start(self.options))?;
        let limited = async {
            tokio::time::timeout(patient(LIMIT), test(&mut node)).await.context("the test took too long")?
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(limited)));
        if !matches!(outcome, Ok(Ok(()))) {
            report(&format!("daemon's log of {name}"), &node.log_tail(80));
        }
        let stopped = runtime.block_on(node.stop());
        // The test's own failure says more than what it left.
        outcome.unwrap_or_else(|panic| resume_unwind(panic))?;
        let left = stopped.context("stopping the node")?;
        anyhow::ensure!(
            left.is_empty(),
            "left behind:\n{}",
            left.iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")
        );
        Ok(())
    }
}

/// A lock file beside the programs: it works for threads of one process and for processes alike.
fn take_turn(turn: Turn) -> Result<Flock<File>> {
    let path = bins::dir()?.join("e2e.lock");
    let file = File::options().create(true).append(true).open(&path)?;
    let how = if turn == Turn::Alone { FlockArg::LockExclusive } else { FlockArg::LockShared };
    Flock::lock(file, how).map_err(|(_, errno)| errno).with_context(|| format!("locking {}", path.display()))
}
