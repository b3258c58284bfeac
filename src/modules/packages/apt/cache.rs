//! Package files that one machine has and another needs: found by name, and used only when they are, byte
//! for byte, what the signed index of the machine that needs them says.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::plan::Work;
use super::simulate::argument;
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::sharing::{Piece, Wanted};
use crate::modules::packages::tools::{ASK, Tools};
use crate::sys::trusted::Directory;

const ARCHIVES: &str = "/var/cache/apt/archives";
/// Bytes of a file in one message.
const PIECE: usize = 2 << 20;
/// Files in one answer, and the largest that travels.
const MOST: usize = 2000;
const LARGEST: u64 = 4 << 30;

/// Files that this machine's apt would have to fetch for the work, as its index names them.
pub fn lacks(tools: &Tools<'_>, work: &Work) -> Vec<Wanted> {
    let installs: Vec<String> = (work.install.iter())
        .map(|install| argument(&install.name, install.version.as_deref()))
        .collect();
    if installs.is_empty() {
        return Vec::new();
    }
    let all: Vec<String> = installs.iter().chain(&work.along).cloned().collect();
    if let Some(wanted) = print_uris(tools, &all) {
        return wanted;
    }
    // One name that is not known yet refuses all of them.
    let mut wanted: Vec<Wanted> = Vec::new();
    for install in &installs {
        let more = print_uris(tools, std::slice::from_ref(install)).unwrap_or_default();
        wanted.extend(more);
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

fn print_uris(tools: &Tools<'_>, arguments: &[String]) -> Option<Vec<Wanted>> {
    let mut argv = vec![
        "apt-get",
        "--print-uris",
        "--assume-yes",
        "--quiet=2",
        "--no-install-recommends",
        "-o",
        "Debug::NoLocking=true",
        "install",
        "--",
    ];
    argv.extend(arguments.iter().map(String::as_str));
    let done = tools.run(&argv, ASK).ok()?;
    if done.code() != 0 {
        return None;
    }
    let files = parse(&String::from_utf8_lossy(&done.stdout));
    // Not every apt says the hash there; its index has it.
    let names: Vec<String> = files
        .iter()
        .filter_map(|(name, _)| versioned(name))
        .collect();
    let mut argv = vec!["apt-cache", "show", "--"];
    argv.extend(names.iter().map(String::as_str));
    let records = if names.is_empty() {
        String::new()
    } else {
        tools.ask(&argv).ok()?
    };
    let wanted = files.into_iter().filter_map(|(name, size)| {
        let sha256 = hash_of(&records, &name, size)?;
        Some(Wanted { name, size, sha256 })
    });
    Some(wanted.filter(is_sane).take(MOST).collect())
}

/// `'URI' NAME SIZE …`: the names and sizes.
fn parse(text: &str) -> Vec<(String, u64)> {
    (text.lines())
        .filter_map(|line| {
            let (_, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let mut words = rest.split(' ');
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

/// Name, version and architecture of the package in a file of the cache.
fn parts(file: &str) -> Option<(&str, String, &str)> {
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version, architecture) = (parts.next()?, parts.next()?, parts.next()?);
    let version = version.replace("%3a", ":");
    parts
        .next()
        .is_none()
        .then_some((name, version, architecture))
}

/// How apt is asked about it.
fn versioned(file: &str) -> Option<String> {
    let (name, version, architecture) = parts(file)?;
    Some(match architecture {
        "all" => format!("{name}={version}"),
        _ => format!("{name}:{architecture}={version}"),
    })
}

/// The hash that the index gives this very file.
fn hash_of(records: &str, file: &str, size: u64) -> Option<String> {
    let (name, version, architecture) = parts(file)?;
    records.split("\n\n").find_map(|record| {
        let value = |key: &str| {
            (record.lines().filter_map(|line| line.split_once(": ")))
                .find(|(field, _)| *field == key)
                .map(|(_, value)| value.trim())
        };
        let is_it = value("Package") == Some(name)
            && value("Version") == Some(&version)
            && value("Architecture") == Some(architecture)
            && value("Size") == Some(&size.to_string());
        is_it
            .then(|| value("SHA256").map(str::to_ascii_lowercase))
            .flatten()
    })
}

/// Whether it can be a package file of the cache, and nothing else.
fn is_sane(wanted: &Wanted) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._+~%-".contains(c);
    let name = &wanted.name;
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.strip_suffix(".deb").is_some()
        && name.chars().all(is_part)
        && wanted.size <= LARGEST
        && wanted.sha256.len() == 64
        && wanted.sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn open(path: &Path) -> Option<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC)
        .bits()
        .cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file())
        .then_some(file)
}

/// Whether the file is, whole, what is wanted.
fn is_it(file: &mut File, wanted: &Wanted, tools: &Tools<'_>) -> bool {
    if !file
        .metadata()
        .is_ok_and(|metadata| metadata.len() == wanted.size)
    {
        return false;
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if tools.abort.is_raised() {
            return false;
        }
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(_) => return false,
        }
    }
    hexadecimal(&hasher.finalize()) == wanted.sha256
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes every write");
    }
    text
}

/// Those of the wanted files that this machine has, whole.
pub fn has(tools: &Tools<'_>, wanted: &[Wanted]) -> Vec<Wanted> {
    (wanted.iter().take(MOST))
        .filter(|wanted| is_sane(wanted))
        .filter(|wanted| {
            let path = tools.at(ARCHIVES).join(&wanted.name);
            open(&path).is_some_and(|mut file| is_it(&mut file, wanted, tools))
        })
        .cloned()
        .collect()
}

/// The piece of a file that begins at `offset`; an empty one at its end.
pub fn give(tools: &Tools<'_>, wanted: &Wanted, offset: u64) -> Result<Bytes, Silence> {
    let gone = || {
        Silence(format!(
            "{} is gone from the cache",
            escape_str(&wanted.name)
        ))
    };
    if !is_sane(wanted) {
        return Err(gone());
    }
    let file = open(&tools.at(ARCHIVES).join(&wanted.name)).ok_or_else(gone)?;
    let mut piece = vec![0; PIECE];
    let n = file.read_at(&mut piece, offset).map_err(|_| gone())?;
    piece.truncate(n);
    Ok(Bytes(piece))
}

/// Takes a piece; the last one puts the file into the cache, if it then is what the index says.
pub fn take(tools: &Tools<'_>, piece: &Piece) -> Result<(), Silence> {
    let wanted = &piece.of;
    if !is_sane(wanted) {
        return Err(Silence("that cannot be a package file".to_owned()));
    }
    let directory = tools.at(ARCHIVES);
    Directory::open(&directory).map_err(|e| Silence(escape_str(&e.to_string())))?;
    let unfinished = directory.join(format!(".pc-switcher-{}", wanted.name));
    let result = append(tools, &directory, &unfinished, piece);
    if result.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    result
}

fn append(
    tools: &Tools<'_>,
    directory: &Path,
    unfinished: &PathBuf,
    piece: &Piece,
) -> Result<(), Silence> {
    let fail = |e: std::io::Error| Silence(format!("cannot write {}: {e}", unfinished.display()));
    let wanted = &piece.of;
    if piece.offset == 0 {
        // What a run that died has left.
        let _ = std::fs::remove_file(unfinished);
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o644);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let mut file = options
        .create_new(piece.offset == 0)
        .open(unfinished)
        .map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let end = piece.offset.saturating_add(piece.data.0.len() as u64);
    if length != piece.offset || end > wanted.size {
        return Err(Silence(format!(
            "{} came out of order",
            escape_str(&wanted.name)
        )));
    }
    file.seek(SeekFrom::End(0)).map_err(fail)?;
    file.write_all(&piece.data.0).map_err(fail)?;
    if end < wanted.size {
        return Ok(());
    }
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    if !is_it(&mut file, wanted, tools) {
        return Err(Silence(format!(
            "{} is not what the package index says",
            escape_str(&wanted.name)
        )));
    }
    // Its name is the promise that it is whole, also after a power cut.
    file.sync_all().map_err(fail)?;
    std::fs::rename(unfinished, directory.join(&wanted.name)).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::AbortFlag;
    use crate::modules::packages::testing::FakeMachine;

    fn wanted(name: &str, content: &[u8]) -> Wanted {
        let hash = Sha256::digest(content);
        Wanted {
            name: name.to_owned(),
            size: content.len() as u64,
            sha256: hexadecimal(&hash),
        }
    }

    fn machine() -> FakeMachine {
        let machine = FakeMachine::new();
        std::fs::create_dir_all(machine.root().join("var/cache/apt/archives")).unwrap();
        machine
    }

    #[test]
    fn what_apt_would_fetch_is_read_with_the_hash_of_its_index() {
        let text = "'http://x/pool/foo_1%253a2_amd64.deb' foo_1%3a2_amd64.deb 1234 \n\
                    'copy:/srv/bar_1_all.deb' bar_1_all.deb 7 SHA256:abc\nE: x\n";
        let files = parse(text);
        assert_eq!(files[0], ("foo_1%3a2_amd64.deb".to_owned(), 1234));
        assert_eq!(versioned(&files[0].0).unwrap(), "foo:amd64=1:2");
        assert_eq!(versioned(&files[1].0).unwrap(), "bar=1");
        let record = |size: u64, hash: &str| {
            format!(
                "Package: foo\nVersion: 1:2\nArchitecture: amd64\nSize: {size}\nSHA256: {hash}\n\n"
            )
        };
        let records = record(99, "other") + &record(1234, "AB12");
        assert_eq!(
            hash_of(&records, &files[0].0, 1234).as_deref(),
            Some("ab12")
        );
        assert_eq!(hash_of(&records, &files[1].0, 7), None);
    }

    #[test]
    fn only_the_very_file_is_given_and_taken() {
        let abort = AbortFlag::new();
        let (source, target) = (machine(), machine());
        source.file("/var/cache/apt/archives/foo_1_all.deb", "content of foo");
        let foo = wanted("foo_1_all.deb", b"content of foo");
        let other = wanted("foo_1_all.deb", b"content of bar");
        let tools = source.tools(&abort);
        let asked = [foo.clone(), other.clone(), wanted("gone_1_all.deb", b"x")];
        assert_eq!(has(&tools, &asked), std::slice::from_ref(&foo));
        let data = give(&tools, &foo, 0).unwrap();
        assert!(give(&tools, &foo, 14).unwrap().0.is_empty());
        let tools = target.tools(&abort);
        let piece = |of: &Wanted, offset, data: &[u8]| Piece {
            of: of.clone(),
            offset,
            data: Bytes(data.to_vec()),
        };
        take(&tools, &piece(&foo, 0, &data.0[..5])).unwrap();
        take(&tools, &piece(&foo, 5, &data.0[5..])).unwrap();
        let path = "/var/cache/apt/archives/foo_1_all.deb";
        assert_eq!(target.content(path).unwrap(), "content of foo");
        // Another content, out of order, too long, elsewhere.
        let bar = wanted("bar_1_all.deb", b"content of bar");
        for piece in [
            piece(&bar, 0, b"content of foo"),
            piece(&bar, 3, b"tent"),
            piece(&bar, 0, b"content of bar and more"),
            piece(&wanted("../../../etc/x.deb", b"x"), 0, b"x"),
            piece(&wanted(".x.deb", b"x"), 0, b"x"),
        ] {
            assert!(take(&tools, &piece).is_err(), "{piece:?}");
        }
        let left = std::fs::read_dir(target.root().join("var/cache/apt/archives")).unwrap();
        assert_eq!(left.count(), 1, "nothing unfinished is left");
    }
}
