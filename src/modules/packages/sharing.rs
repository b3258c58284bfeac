//! Package files over the sync's own connection (`packages.share_cache`): what the target's manager would
//! fetch and the source has in its cache.
//!
//! The target names the files with the hashes of its own signed index, and uses nothing else.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::Answer;
use super::bytes::Bytes;
use super::service::PackagesRequest;
use super::{ask, manager::Manager};
use crate::escape::escape_str;
use crate::event::{Host, LogLevel};
use crate::figures::bytes;
use crate::module::{ModuleContext, ModuleError};

/// A package file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Wanted {
    /// Its name in the cache.
    pub name: String,
    /// Its length.
    pub size: u64,
    /// Its hash, in hexadecimal digits.
    pub sha256: String,
}

/// A part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Of which.
    pub of: Wanted,
    /// Where it begins.
    pub offset: u64,
    /// What is there.
    pub data: Bytes,
}

/// Brings the target what it lacks and the source has; whether it then lacks nothing. Trouble here is no
/// failure: the manager fetches what is missing itself.
pub(super) fn share(
    context: &ModuleContext<'_>,
    manager: &'static dyn Manager,
    work: &Value,
) -> Result<bool, ModuleError> {
    let name = manager.name();
    let tell = |why: &str| {
        let text = format!("{name}: package files are not shared: {}", escape_str(why));
        context.log(LogLevel::Info, Host::Target, text);
    };
    let request = PackagesRequest::Lacks {
        manager: name.to_owned(),
        work: work.clone(),
    };
    let lacks: Vec<Wanted> = match ask(context.target, &request, None)? {
        Answer::Is(lacks) => lacks,
        Answer::Absent => return Ok(false),
        Answer::Silent(why) => {
            tell(&why);
            return Ok(false);
        }
    };
    if lacks.is_empty() {
        return Ok(false);
    }
    let has: Answer<Vec<Wanted>> = ask(context.source, &PackagesRequest::Has(lacks.clone()), None)?;
    let Answer::Is(has) = has else {
        return Ok(false);
    };
    let (mut brought, mut total) = (0, 0);
    // Only what was asked for, whatever the source says it has.
    for wanted in lacks.iter().filter(|wanted| has.contains(wanted)) {
        match bring(context, wanted)? {
            Ok(()) => {
                brought += 1;
                total += wanted.size;
            }
            Err(why) => tell(&why),
        }
    }
    if brought > 0 {
        let text = format!(
            "{name}: {brought} of {} package files came from the cache of {} ({})",
            lacks.len(),
            context.source.hostname,
            bytes(total)
        );
        context.log(LogLevel::Info, Host::Target, text);
    }
    Ok(brought == lacks.len())
}

fn bring(context: &ModuleContext<'_>, wanted: &Wanted) -> Result<Result<(), String>, ModuleError> {
    let mut offset = 0;
    loop {
        context.abort.check()?;
        let request = PackagesRequest::Give {
            file: wanted.clone(),
            offset,
        };
        let data: Bytes = match ask(context.source, &request, None)? {
            Answer::Is(data) => data,
            Answer::Absent => return Ok(Err("the source has no cache".to_owned())),
            Answer::Silent(why) => return Ok(Err(why)),
        };
        if data.0.is_empty() {
            return Ok(Err(format!("{} ended early", wanted.name)));
        }
        let from = offset;
        offset += data.0.len() as u64;
        let piece = Piece {
            of: wanted.clone(),
            offset: from,
            data,
        };
        let changes = (from == 0).then(|| format!("keep the package file {}", wanted.name));
        let taken: Answer<()> = ask(context.target, &PackagesRequest::Take(piece), changes)?;
        if let Answer::Silent(why) = taken {
            return Ok(Err(why));
        }
        if offset >= wanted.size {
            return Ok(Ok(()));
        }
    }
}
