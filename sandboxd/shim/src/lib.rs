//! What daemon and shim say to each other.
