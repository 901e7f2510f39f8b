//! Sessions over the real server, with processes of this machine in place of containers.

mod connect;
mod fake;
mod sessions;
