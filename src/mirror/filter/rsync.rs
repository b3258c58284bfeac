//! The same rules for rsync.
//!
//! rsync asks its rules about each path alone and never enters an excluded directory. "A rule
//! covers everything in a directory" becomes a second rule `PATTERN/**`; "an include works below an
//! excluded directory" becomes includes of all directories on the way, at the include's own place in
//! the list. `**` between slashes stands for at least one directory in rsync, for none too here, so
//! every pattern is written once for each choice.

use super::STAGING_NAME;
use super::glob::Glob;
use super::rule::{Part, Rule};

/// Renders `rules` for a transfer whose root is the folder; `below`: the rules are relative to
/// that directory.
pub(super) fn render(rules: &[Rule], below: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    let base: Vec<Part> = below
        .unwrap_or_default()
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .map(|name| Part {
            any_before: false,
            glob: Glob::Literal(name.into()),
        })
        .collect();
    if below.is_none() {
        let name = STAGING_NAME;
        out.extend_from_slice(format!("- /{name}\n- /{name}/**\n").as_bytes());
    }
    for rule in rules {
        let sign = rule.sign();
        let parts: Vec<Part> = base.iter().chain(&rule.parts).cloned().collect();
        if rule.include {
            for end in base.len()..parts.len() {
                if end > base.len() {
                    push(&mut out, sign, &parts[..end], "/");
                }
                if parts[end].any_before {
                    push(&mut out, sign, &parts[..end], "/**/");
                }
            }
        }
        push(&mut out, sign, &parts, if rule.dir_only { "/" } else { "" });
        push(&mut out, sign, &parts, "/**");
    }
    out
}

/// One rule for each way to read the `**` before a component as none or as some directories.
fn push(out: &mut Vec<u8>, sign: char, parts: &[Part], suffix: &str) {
    let optional: Vec<usize> = (0..parts.len()).filter(|&i| parts[i].any_before).collect();
    for choice in 0..1_u32 << optional.len() {
        let deep = |i: usize| {
            optional
                .iter()
                .position(|&o| o == i)
                .is_some_and(|bit| choice >> bit & 1 == 1)
        };
        let wild =
            choice != 0 || suffix.contains('*') || parts.iter().any(|part| part.glob.looks_wild());
        out.push(sign as u8);
        out.push(b' ');
        for (i, part) in parts.iter().enumerate() {
            out.extend_from_slice(if deep(i) { b"/**/" } else { b"/" });
            part.glob.to_rsync(out, wild);
        }
        out.extend_from_slice(suffix.as_bytes());
        out.push(b'\n');
    }
}
