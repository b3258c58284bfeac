//! Carrying out what was decided, on the target, with the target's own flatpak.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{RemoteWork, ScopeWork, Work, filter_of};
use super::state::{Installation, Installed, is_address, is_pattern, is_ref, is_remote_name};
use crate::modules::packages::answer::Silence;
use crate::modules::packages::files;
use crate::modules::packages::item::Outcome;
use crate::modules::packages::tools::Tools;

/// Where a filter may be written.
const FILTERS: &str = "/etc/flatpak/";

/// Does the work, installation by installation: one that fails does not keep the others.
pub fn apply(tools: &Tools<'_>, work: &Work, say: &mut dyn FnMut(&str)) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (scope, work) in work {
        let mut apply = Apply {
            installation: Installation {
                tools,
                person: work.person.as_ref(),
            },
            scope,
            work,
            say,
            outcomes: &mut outcomes,
        };
        if let Err(why) = apply.all() {
            outcomes.push(Outcome::failed(scope, why.0));
        }
    }
    outcomes
}

struct Apply<'a> {
    installation: Installation<'a>,
    scope: &'a str,
    work: &'a ScopeWork,
    say: &'a mut dyn FnMut(&str),
    outcomes: &'a mut Vec<Outcome>,
}

impl Apply<'_> {
    fn check(&self) -> Result<(), Silence> {
        let work = self.work;
        let names = (work.install.iter().map(|i| &i.name)).chain(&work.remove);
        let remotes = (work.install.iter())
            .flat_map(|i| [&i.remote].into_iter().chain(&i.also))
            .chain(work.remotes.iter().map(|r| &r.name))
            .chain(&work.drop);
        let patterns = [&work.mask, &work.unmask, &work.pin, &work.unpin];
        let is_good = names.into_iter().all(|name| is_ref(name))
            && remotes.into_iter().all(|name| is_remote_name(name))
            && patterns.into_iter().flatten().all(|p| is_pattern(p))
            && work.remotes.iter().all(|r| is_address(&r.like.url));
        is_good.then_some(()).ok_or_else(|| {
            Silence("the work names what cannot be an app, a remote or a pattern".to_owned())
        })
    }

    fn all(&mut self) -> Result<(), Silence> {
        self.check()?;
        let work = self.work;
        let mut broken: BTreeMap<&str, String> = BTreeMap::new();
        for remote in &work.remotes {
            let result = self.remote(remote);
            self.note(&format!("remote {}", remote.name), &result);
            if let Err(why) = result {
                broken.insert(&remote.name, why.0);
            }
        }
        for mask in &work.unmask {
            let result = self.installation.act("mask", &["--remove", mask]);
            self.note(&format!("no mask {mask}"), &result);
        }
        self.installs(&broken)?;
        self.removals()?;
        let lists = [
            ("pin", "--remove", &work.unpin, "no pin"),
            ("pin", "", &work.pin, "pin"),
            ("mask", "", &work.mask, "mask"),
        ];
        for (verb, option, patterns, what) in lists {
            let pins = self.patterns(verb)?;
            for pattern in patterns {
                let is_there = pins.contains(pattern.as_str());
                let words: Vec<&str> = [option, pattern]
                    .into_iter()
                    .filter(|word| !word.is_empty())
                    .collect();
                // An install or a removal may have noted it already.
                let result = if is_there == option.is_empty() {
                    Ok(())
                } else {
                    self.installation.act(verb, &words)
                };
                self.note(&format!("{what} {pattern}"), &result);
            }
        }
        Ok(())
    }

    fn note(&mut self, what: &str, result: &Result<(), Silence>) {
        let id = format!("{} {what}", self.scope);
        self.outcomes.push(match result {
            Ok(()) => Outcome::done(id),
            Err(why) => Outcome::failed(id, why.0.clone()),
        });
    }

    fn patterns(&self, verb: &str) -> Result<BTreeSet<String>, Silence> {
        let text = self.installation.ask(verb, &[])?;
        Ok(text.lines().map(|line| line.trim().to_owned()).collect())
    }

    fn remote(&mut self, remote: &RemoteWork) -> Result<(), Silence> {
        let like = &remote.like;
        (self.say)(&format!("setting up the remote {}", remote.name));
        let mut options: Vec<String> = Vec::new();
        if let Some((path, content)) = filter_of(like) {
            self.filter(path, &content.0)?;
            options.push(format!("--filter={path}"));
        }
        // Several keyrings are one, when they stand behind each other.
        let keys: Vec<u8> = like.keys.iter().flat_map(|k| k.0.iter().copied()).collect();
        let keyring = (!keys.is_empty()).then(|| Keyring::new(self.installation.tools, &keys));
        let keyring = keyring.transpose()?;
        if let Some(keyring) = &keyring {
            options.push(format!("--gpg-import={}", keyring.place()));
        }
        if !like.collection.is_empty() {
            options.push(format!("--collection-id={}", like.collection));
        }
        if !like.subset.is_empty() {
            options.push(format!("--subset={}", like.subset));
        }
        let verb = if remote.exists {
            options.push(format!("--url={}", like.url));
            options.push(gpg(like.verify, "--gpg-verify").to_owned());
            if remote.enable {
                options.push("--enable".to_owned());
            }
            if remote.unfilter {
                options.push("--no-filter".to_owned());
            }
            "remote-modify"
        } else {
            if !like.verify {
                options.push("--no-gpg-verify".to_owned());
            }
            if like.hidden {
                options.push("--no-enumerate".to_owned());
            }
            "remote-add"
        };
        options.push(remote.name.clone());
        if !remote.exists {
            options.push(like.url.clone());
        }
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let done = self.installation.act(verb, &words);
        if done.is_err() && !remote.exists {
            // It may have been added and then failed, without its keys.
            let name = &remote.name;
            let _ = (self.installation).act("remote-delete", &["--force", name]);
        }
        done?;
        // Adding one that is there under another address ends well and changes nothing.
        let now = self.installation.read()?;
        let is_right = now
            .as_ref()
            .and_then(|scope| scope.remotes.get(&remote.name))
            .is_some_and(|now| now.address() == like.address() && now.verify == like.verify);
        is_right.then_some(()).ok_or_else(|| {
            Silence("flatpak said that it was done, and the remote is another one".to_owned())
        })
    }

    /// A filter lies where it lies on the source, or nowhere.
    fn filter(&self, path: &str, content: &[u8]) -> Result<(), Silence> {
        let tools = self.installation.tools;
        let limit = 1 << 20;
        if (self.installation.person.is_none() || path.starts_with(FILTERS))
            && tools.read(path, limit)?.as_deref() == Some(content)
        {
            return Ok(());
        }
        let is_plain = |name: &str| {
            !name.starts_with('.')
                && (name.chars()).all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        match path.strip_prefix(FILTERS) {
            Some(name) if !name.is_empty() && is_plain(name) => files::write(tools, path, content),
            _ => Err(Silence(format!(
                "its filter {path} is not below {FILTERS}, and so it is not copied"
            ))),
        }
    }

    fn installs(&mut self, broken: &BTreeMap<&str, String>) -> Result<(), Silence> {
        let mut whys: BTreeMap<&str, String> = BTreeMap::new();
        let tools = self.installation.tools;
        for install in &self.work.install {
            tools.check()?;
            let remotes = [&install.remote].into_iter().chain(&install.also);
            if let Some(why) = remotes.into_iter().find_map(|r| broken.get(r.as_str())) {
                whys.insert(
                    &install.name,
                    format!("its remote could not be set up: {why}"),
                );
                continue;
            }
            (self.say)(&format!("installing {}", install.name));
            let words = [
                "--noninteractive",
                "--assumeyes",
                &install.remote,
                &install.name,
            ];
            if let Err(why) = self.installation.act("install", &words) {
                whys.insert(&install.name, why.0);
            }
        }
        if self.work.install.is_empty() {
            return Ok(());
        }
        let there: BTreeMap<String, Installed> = self.installation.refs()?;
        for install in &self.work.install {
            let name = install.name.as_str();
            let result = match there.get(name) {
                Some(now) if now.origin == install.remote => Ok(()),
                Some(now) => Err(Silence(format!(
                    "it came from {} and not from {}",
                    now.origin, install.remote
                ))),
                None => Err(Silence(whys.remove(name).unwrap_or_else(|| {
                    "flatpak did not do it, and did not say why".to_owned()
                }))),
            };
            self.note(name, &result);
        }
        Ok(())
    }

    fn removals(&mut self) -> Result<(), Silence> {
        let tools = self.installation.tools;
        for name in &self.work.remove {
            tools.check()?;
            (self.say)(&format!("removing {name}"));
            let words = ["--noninteractive", "--assumeyes", name];
            let result = (self.installation.act("uninstall", &words)).and_then(|()| {
                let is_there = self.installation.refs()?.contains_key(name);
                let why = "flatpak said that it was done, and it is still there";
                (!is_there).then_some(()).ok_or(Silence(why.to_owned()))
            });
            self.note(name, &result);
        }
        if self.work.drop.is_empty() {
            return Ok(());
        }
        let used: BTreeSet<String> = (self.installation.refs()?.into_values())
            .map(|installed| installed.origin)
            .collect();
        for remote in self.work.drop.iter().filter(|name| !used.contains(*name)) {
            let result = self.installation.act("remote-delete", &[remote]);
            self.note(&format!("no remote {remote}"), &result);
        }
        Ok(())
    }
}

/// Keys in a file of root's that everybody may read, while flatpak imports them: it cannot read them from
/// its standard input (1.14 says "GPGME: No data").
struct Keyring<'a> {
    tools: &'a Tools<'a>,
    path: String,
}

impl<'a> Keyring<'a> {
    fn new(tools: &'a Tools<'a>, keys: &[u8]) -> Result<Self, Silence> {
        let path = format!("/run/pc-switcher-keys-{}.gpg", std::process::id());
        files::write(tools, &path, keys)?;
        Ok(Self { tools, path })
    }

    fn place(&self) -> String {
        self.tools.at(&self.path).to_string_lossy().into_owned()
    }
}

impl Drop for Keyring<'_> {
    fn drop(&mut self) {
        // In `/run`: what cannot be deleted now is gone with the next boot, and is no secret.
        let _ = files::delete(self.tools, &self.path);
    }
}

/// The option, or its opposite.
fn gpg(verify: bool, option: &'static str) -> &'static str {
    if verify { option } else { "--no-gpg-verify" }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
