//! A running daemon to test against, and what it takes to clean up after it.
//!
//! [`node::Node`] is a node of its own for one test, the demo or a bench: the real `sandboxd` from the
//! build directory on directories, sockets, a CNI bridge and a cgroup nobody else uses. [`cri`] and
//! [`console`] talk to it, [`pod`] writes requests, [`ns`] asks the kernel who owns what, and
//! [`leftovers`] finds what a pod or a daemon left behind.

pub mod bins;
pub mod cni;
pub mod console;
pub mod cri;
pub mod e2e;
pub mod identity;
pub mod image;
pub mod interrupt;
pub mod leftovers;
pub mod node;
pub mod ns;
pub mod patience;
pub mod pod;
pub mod proc;
pub mod provoke;
pub mod registry;
pub mod skip;
pub mod sweep;
pub mod tls;
pub mod workload;
