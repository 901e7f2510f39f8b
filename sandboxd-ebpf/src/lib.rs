//! The layout of what the eBPF programs report: one definition for the kernel side and the daemon.
#![no_std]
