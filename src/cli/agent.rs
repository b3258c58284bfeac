//! `pc-switcher agent`: root's side of a sync; started by pc-switcher, never typed.

use crate::agent::server::serve;
use crate::agent::service::Service;
use crate::exit::ExitStatus;

/// Serves requests on stdin and stdout until stdin closes. `services` are what higher layers add.
#[must_use]
pub fn run(services: Vec<Box<dyn Service>>) -> ExitStatus {
    serve(services)
}
