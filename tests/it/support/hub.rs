//! A flatpak repository made for a test: a runtime, apps and signatures, by flatpak's own tools.

use std::fs;
use std::process::Command;

use super::lab::{ATLAS, Lab, VEGA};
use super::repo::inside;

/// The app's whole name.
pub const APP: &str = "app/org.test.App/x86_64/stable";
/// Where both machines find the repository.
pub const URL: &str = "file:///srv/hub";
/// The public key it is signed with.
pub const KEY: &str = "/srv/hub.gpg";

/// Everything is made in one machine, by the flatpak that is there.
const MAKE: &str = r#"
set -e
export GNUPGHOME=/srv/keys
mkdir -m 700 $GNUPGHOME
gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-gen-key hub rsa2048 sign never
gpg --export >/srv/hub.gpg
key=$(gpg --list-keys --with-colons | awk -F: '/^fpr/ {print $10; exit}')
sign="--gpg-sign=$key --gpg-homedir=$GNUPGHOME"
arch=x86_64
make() { # KIND NAME BRANCH
  rm -rf /srv/tree; mkdir -p /srv/tree/files/bin /srv/tree/usr /srv/tree/export
  echo "$2 $3" >/srv/tree/files/$2; echo "$2 $3" >/srv/tree/usr/$2
  if [ $1 = app ]; then
    printf '[Application]\nname=%s\nruntime=org.test.Platform/%s/1\ncommand=x\n' $2 $arch >/srv/tree/metadata
    flatpak build-export --disable-sandbox --no-update-summary $sign /srv/hub /srv/tree $3
  else
    printf '[Runtime]\nname=%s\nruntime=%s/%s/%s\n' $2 $2 $arch $3 >/srv/tree/metadata
    flatpak build-export --disable-sandbox --no-update-summary --runtime $sign /srv/hub /srv/tree $3
  fi
}
make runtime org.test.Platform 1
make runtime org.test.Sdk 1
make app org.test.App stable
make app org.test.App beta
make app org.test.Other stable
flatpak build-update-repo $sign /srv/hub
gpgconf --kill all
"#;

/// Makes the repository, and gives both machines a copy.
pub fn make(lab: &Lab) {
    lab.exec(ATLAS, &["sh", "-c", MAKE]).ok();
    for name in ["srv/hub", "srv/hub.gpg"] {
        let (from, to) = (inside(lab, ATLAS, name), inside(lab, VEGA, name));
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(done.expect("cp runs").success());
    }
}

/// Lets flatpak do something on a machine.
pub fn flatpak(lab: &Lab, host: &str, arguments: &[&str]) -> String {
    lab.exec(host, &[&["flatpak"], arguments].concat())
        .ok()
        .stdout
}

/// Adds the repository under a name, with its key.
pub fn use_hub(lab: &Lab, host: &str, name: &str) {
    let import = format!("--gpg-import={KEY}");
    flatpak(lab, host, &["remote-add", "--system", &import, name, URL]);
}

/// What is installed for everybody, with where it came from.
pub fn refs(lab: &Lab, host: &str) -> Vec<String> {
    let text = flatpak(lab, host, &["list", "--system", "--columns=ref,origin"]);
    text.lines().map(|line| line.replace('\t', " ")).collect()
}

/// A file of a machine as it is now.
pub fn bytes(lab: &Lab, host: &str, path: &str) -> Option<Vec<u8>> {
    fs::read(inside(lab, host, path)).ok()
}
