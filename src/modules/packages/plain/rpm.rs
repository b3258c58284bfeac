//! What rpm says is installed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Package, is_name};
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::tools::Tools;

const QUERY: [&str; 4] = [
    "rpm",
    "--query",
    "--all",
    "--queryformat=%{NAME}\\t%{ARCH}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\n",
];

/// A package's name, with its architecture where that is not the machine's own.
#[must_use]
pub fn own_name(name: &str, architecture: &str) -> String {
    if [std::env::consts::ARCH, "noarch", "(none)", ""].contains(&architecture) {
        name.to_owned()
    } else {
        format!("{name}.{architecture}")
    }
}

/// Everything that is installed.
pub fn packages(tools: &Tools<'_>) -> Result<BTreeMap<String, Package>, Silence> {
    parse(&tools.ask(&QUERY)?)
}

/// The names alone.
pub fn names(tools: &Tools<'_>) -> Result<BTreeSet<String>, Silence> {
    Ok(packages(tools)?.into_keys().collect())
}

fn parse(text: &str) -> Result<BTreeMap<String, Package>, Silence> {
    let mut packages = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, architecture, version] = fields[..] else {
            return Err(Silence(format!(
                "`rpm --query --all` printed nonsense: {}",
                escape_str(line)
            )));
        };
        // Keys are kept as if they were packages.
        if name == "gpg-pubkey" || !is_name(name) {
            continue;
        }
        let package = Package {
            version: version.to_owned(),
            ..Package::default()
        };
        packages.insert(own_name(name, architecture), package);
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_output_is_read() {
        let text = include_str!("../../../../tests/samples/packages/dnf/rpm-qa.out");
        let packages = parse(text).unwrap();
        assert_eq!(packages["simple"].version, "1.0-1");
        assert_eq!(packages.len(), 4);
        assert!(parse("error: rpmdb\n").is_err());
        let text = "glibc\ti686\t2:1-1\ngpg-pubkey\t(none)\t1-2\n";
        assert_eq!(
            parse(text).unwrap().into_keys().collect::<Vec<_>>(),
            ["glibc.i686"]
        );
    }
}
