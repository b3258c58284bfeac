//! Reaching a machine: this one through `sudo`, another one through SSH.
//!
//! Both ways end in the same thing: a started program whose standard streams are bytes in both
//! directions ([`stream`]). What the bytes mean is not known here.

pub mod local;
pub mod opening;
pub mod ssh;
pub mod stream;
pub mod sudo;
pub mod sudoers;
pub mod throttle;
