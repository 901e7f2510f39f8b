//! The console of sandboxd: what the pods of nodes own, and why something was denied to them.
//!
//! ```text
//!  feed (daemon or recording) ──▶ model ──▶ panels ──▶ screen, text, JSON
//!        ▲                                    │ effects
//!        └────────────── requests ── app ◀────┴── keys, mouse
//! ```
//!
//! It speaks `sandboxd.console.v1` and shares nothing with the daemon but the wire types. It only reads,
//! unless actions are allowed ([`actions`], [`exec`]).

#![forbid(unsafe_code)]

pub mod actions;
pub mod app;
pub mod args;
pub mod config;
pub mod exec;
pub mod feed;
pub mod fleet;
pub mod input;
pub mod keys;
pub mod link;
pub mod model;
pub mod once;
pub mod panel;
pub mod record;
pub mod run;
pub mod terminal;
pub mod text;
pub mod theme;
