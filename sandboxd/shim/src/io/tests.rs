//! Streams with real pipes, files and terminals.
