//! Reaching a machine.
