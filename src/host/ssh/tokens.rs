//! The `%` tokens, `~` and `${VARIABLE}` of `ssh_config(5)`.

use std::path::PathBuf;

use sha1::{Digest, Sha1};

/// The person's home directory.
pub(super) fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// What the tokens stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub(super) alias: &'a str,
    pub(super) hostname: &'a str,
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) host_key_alias: Option<&'a str>,
    pub(super) jump: &'a str,
}

impl Tokens<'_> {
    /// `text` with its tokens replaced.
    pub(super) fn expand(&self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => out.push('%'),
                Some('h') => out.push_str(self.hostname),
                Some('n') => out.push_str(self.alias),
                Some('p') => out.push_str(&self.port.to_string()),
                Some('r') => out.push_str(self.user),
                Some('j') => out.push_str(self.jump),
                Some('k') => out.push_str(self.host_key_alias.unwrap_or(self.alias)),
                Some('d') => out.push_str(&home().to_string_lossy()),
                Some('i') => out.push_str(&rustix::process::getuid().as_raw().to_string()),
                Some('u') => out.push_str(&std::env::var("USER").unwrap_or_default()),
                Some('l') => out.push_str(&local_name()),
                Some('L') => out.push_str(local_name().split('.').next().unwrap_or_default()),
                Some('C') => out.push_str(&self.connection_hash()),
                other => {
                    let token: String = other.into_iter().collect();
                    return Err(format!("unknown token %{token} in {text:?}"));
                }
            }
        }
        Ok(out)
    }

    /// `text` as a path: tokens, `~/` and `${VARIABLE}` replaced.
    pub(super) fn path(&self, text: &str) -> Result<PathBuf, String> {
        let mut expanded = self.expand(text)?;
        while let Some(start) = expanded.find("${") {
            let end = expanded[start..]
                .find('}')
                .ok_or_else(|| format!("no closing brace in {text:?}"))?
                + start;
            let name = &expanded[start + 2..end];
            let value = std::env::var(name)
                .map_err(|_| format!("the variable {name} in {text:?} is not set"))?;
            if value.contains("${") {
                return Err(format!("the variable {name} refers to another one"));
            }
            expanded.replace_range(start..=end, &value);
        }
        Ok(match expanded.strip_prefix("~/") {
            Some(rest) => home().join(rest),
            None => PathBuf::from(expanded),
        })
    }

    fn connection_hash(&self) -> String {
        let mut hash = Sha1::new();
        for part in [
            local_name().as_str(),
            self.hostname,
            &self.port.to_string(),
            self.user,
            self.jump,
        ] {
            hash.update(part.as_bytes());
        }
        super::encoding::hex(&hash.finalize())
    }
}

fn local_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: Tokens<'_> = Tokens {
        alias: "vega",
        hostname: "192.0.2.7",
        port: 2200,
        user: "kim",
        host_key_alias: None,
        jump: "",
    };

    #[test]
    fn tokens_are_replaced_and_unknown_ones_refused() {
        assert_eq!(
            TOKENS.expand("%h:%p %r@%n 100%%").unwrap(),
            "192.0.2.7:2200 kim@vega 100%"
        );
        assert!(TOKENS.expand("%z").unwrap_err().contains("%z"));
        assert!(TOKENS.expand("50%").is_err());
    }

    #[test]
    fn paths_know_the_home_directory_and_variables() {
        assert_eq!(TOKENS.path("~/.ssh/x").unwrap(), home().join(".ssh/x"));
        assert_eq!(TOKENS.path("${HOME}/y").unwrap(), home().join("y"));
        assert!(TOKENS.path("${NO_SUCH_VARIABLE_HERE}/y").is_err());
    }
}
