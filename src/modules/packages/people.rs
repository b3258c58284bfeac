//! The people of a machine, for managers that keep software for each of them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::answer::Silence;
use super::tools::Tools;

/// Most of `/etc/passwd` that is read.
const PASSWD_BYTES: u64 = 1 << 20;
/// Most people that are looked at.
const MOST: usize = 200;
/// Numbers of people, as `login.defs(5)` of the common distributions has them.
const NUMBERS: std::ops::Range<u32> = 1000..60_000;

/// One person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Login name.
    pub name: String,
    /// User number.
    pub uid: u32,
    /// Number of the main group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

impl Person {
    /// `argv` run with this person's rights and home, and nothing of root's.
    #[must_use]
    pub fn argv(&self, argv: &[&str]) -> Vec<String> {
        let mut all = vec![
            "setpriv".to_owned(),
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            "--init-groups".to_owned(),
            "--inh-caps=-all".to_owned(),
            "--".to_owned(),
            "env".to_owned(),
            format!("HOME={}", self.home),
            format!("USER={}", self.name),
            format!("LOGNAME={}", self.name),
        ];
        all.extend(argv.iter().map(|&word| word.to_owned()));
        all
    }
}

/// People with a home on this machine. Those that only a directory service knows are not among them.
pub fn people(tools: &Tools<'_>) -> Result<Vec<Person>, Silence> {
    let Some(bytes) = tools.read("/etc/passwd", PASSWD_BYTES)? else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8_lossy(&bytes);
    let people = (text.lines().filter_map(parse))
        .filter(|person| tools.at(&person.home).is_dir())
        .take(MOST);
    Ok(people.collect())
}

fn parse(line: &str) -> Option<Person> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, _] = fields[..] else {
        return None;
    };
    let uid = uid.parse().ok().filter(|uid| NUMBERS.contains(uid))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(is_plain) {
        return None;
    }
    if !Path::new(home).is_absolute() || home == "/" {
        return None;
    }
    Some(Person {
        name: name.to_owned(),
        uid,
        gid: gid.parse().ok()?,
        home: home.trim_end_matches('/').to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_those_with_a_number_a_plain_name_and_a_home() {
        let dev = parse("dev:x:1000:1001:Dev,,,:/home/dev/:/bin/bash").unwrap();
        assert_eq!(
            (dev.uid, dev.gid, dev.home.as_str()),
            (1000, 1001, "/home/dev")
        );
        for line in [
            "root:x:0:0::/root:/bin/sh",
            "nobody:x:65534:65534::/nonexistent:/x",
            "-x:x:1000:1000::/home/x:/bin/sh",
            "a b:x:1000:1000::/home/x:/bin/sh",
            "rel:x:1000:1000::home:/bin/sh",
            "all:x:1000:1000::/:/bin/sh",
            "short:x:1000",
            "",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        let argv = dev.argv(&["flatpak", "list"]);
        assert_eq!(
            super::super::tools::shown(&argv.iter().map(String::as_str).collect::<Vec<_>>()),
            "flatpak list"
        );
    }
}
