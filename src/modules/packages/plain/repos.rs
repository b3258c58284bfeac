//! Repositories as files name them (`yum.conf(5)`, `zypper(8)`): which are switched on, and where they are.

use std::collections::BTreeMap;

use crate::modules::packages::answer::Silence;
use crate::modules::packages::tools::Tools;

/// Largest file that is read.
const FILE_LIMIT: u64 = 256 << 10;

/// The repositories of a directory's `*.repo` files that are switched on, with their addresses: by their
/// short name, or (`by_title`) by the one that is shown to people.
pub fn read(
    tools: &Tools<'_>,
    directory: &str,
    by_title: bool,
) -> Result<BTreeMap<String, String>, Silence> {
    let mut all = BTreeMap::new();
    for name in tools.names(directory)? {
        if name.strip_suffix(".repo").is_none() {
            continue;
        }
        let path = format!("{directory}/{name}");
        if let Some(bytes) = tools.read_linked(&path, FILE_LIMIT)? {
            all.append(&mut parse(&String::from_utf8_lossy(&bytes), by_title));
        }
    }
    Ok(all)
}

fn parse(text: &str, by_title: bool) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let sections = text
        .split("\n[")
        .map(|section| section.trim_start_matches('['));
    for section in sections {
        let Some((id, rest)) = section.split_once(']') else {
            continue;
        };
        let value = |key: &str| {
            (rest.lines().filter_map(|line| line.split_once('=')))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().to_owned())
        };
        if value("enabled").is_some_and(|on| ["0", "false", "no"].contains(&&*on.to_lowercase())) {
            continue;
        }
        let address = ["baseurl", "metalink", "mirrorlist"]
            .into_iter()
            .find_map(value);
        let title = by_title.then(|| value("name")).flatten();
        let address = address.unwrap_or_default();
        all.insert(
            title.unwrap_or_else(|| id.trim().to_owned()),
            address.trim_end_matches('/').to_owned(),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_switched_on_has_its_address() {
        let text = "# x\n[fedora]\nname=Fedora $releasever\nmetalink=https://m.example/f\nenabled=1\n\n\
                    [off]\nbaseurl=http://off/\nenabled=0\n[plain]\nname=Plain one\nbaseurl=http://p/x/\n";
        let all = parse(text, false);
        assert_eq!(all.len(), 2);
        assert_eq!(all["fedora"], "https://m.example/f");
        assert_eq!(all["plain"], "http://p/x");
        assert!(parse(text, true).contains_key("Plain one"));
    }
}
