//! mirror
pub mod filter;
