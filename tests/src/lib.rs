//! A running daemon to test against, and what it takes to clean up after it.
