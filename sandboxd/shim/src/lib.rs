//! What daemon and shim say to each other: [`plan`] is what the daemon wants made, [`proto`] the requests and
//! replies, [`wire`] how they travel (one seqpacket message each, file descriptors beside it).
//!
//! The daemon starts one shim per pod with its end of a socket pair as standard input. The shim also listens on
//! [`proto::SOCKET_NAME`] in the pod's directory, where a restarted daemon finds it again.

pub mod plan;
pub mod proto;
pub mod wire;
