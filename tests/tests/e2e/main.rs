//! End-to-end tests: the real daemon, real namespaces, real CNI plugins, the live observer. Each test has a
//! node of its own (`sandboxd_tests::node`) and fails when anything of it is left behind.

mod apparmor;
mod capabilities;
mod cli;
mod config_fields;
mod console;
mod console_access;
mod console_program;
mod console_service;
mod console_streams;
mod containers;
mod demo;
mod events;
mod explain;
mod faults;
mod images;
mod lifecycle;
mod many;
mod namespaces;
mod network_first;
mod no_observer;
mod observer;
mod ownership;
mod portmap;
mod reasons;
mod refusals;
mod restart;
mod scripted;
mod stats;
mod support;
mod telemetry;
