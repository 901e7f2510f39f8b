//! The store as a whole.

mod crash;
mod life;
