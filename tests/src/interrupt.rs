//! The signals by which an operator or a system ends a program, taken instead of suffered: whoever holds
//! a node cleans up first.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell shows for a program ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// SIGINT, SIGTERM and SIGHUP. From its making on none of them ends the process by itself.
#[derive(Debug)]
pub struct Interrupts([Signal; 3]);

impl Interrupts {
    /// # Errors
    /// When the kernel refuses the handlers.
    pub fn new() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [a, b, c] = kinds.map(signal);
        Ok(Self([a?, b?, c?]))
    }

    /// Waits for one of them.
    pub async fn next(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
    }
}
