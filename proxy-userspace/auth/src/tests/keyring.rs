use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use portsplice_model::error_line;
use tempfile::TempDir;

use crate::{ContainerKey, KeySources, Keyring, RegisteredKeys, RootKey};

const HEX: &str = "baa54e380bbddd9ad39e77529705fd770ac5721060271c7ea1c0c277770ee0cd";

fn write(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn error(sources: &KeySources) -> String {
    error_line(&Keyring::load(sources).unwrap_err())
}

#[test]
fn the_root_secret_from_a_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("root");
    let sources = KeySources { root_file: Some(path.clone()), ..KeySources::default() };
    assert!(error(&sources).contains("cannot open"));
    write(&path, "\n", 0o600);
    assert!(error(&sources).contains("is empty"));
    write(&path, "root-secret\r\n", 0o640);
    assert!(error(&sources).contains("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let keyring = Keyring::load(&sources).unwrap();
    let expected = RootKey::new(b"root-secret").container("u").mac(&[b"x"]);
    assert_eq!(keyring.key("u").unwrap().mac(&[b"x"]), expected);
    assert!(keyring.has_root());
    write(&path, vec![b'a'; 70_000], 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(error(&sources).contains("too large"));
}

#[test]
fn keys_from_a_directory() {
    let dir = TempDir::new().unwrap();
    let sources = KeySources { keys_dir: Some(dir.path().to_owned()), ..KeySources::default() };
    assert!(!Keyring::load(&sources).unwrap().has_root(), "keys may come later");
    write(&dir.path().join("zzzzz-dz642-abcdefghijklmno"), format!(" {HEX}\n"), 0o600);
    write(&dir.path().join(".hidden"), "junk", 0o644);
    fs::create_dir(dir.path().join("directory")).unwrap();
    let keyring = Keyring::load(&sources).unwrap();
    assert_eq!(keyring.own_keys(), 1);
    let expected = ContainerKey::from_hex(HEX).unwrap().mac(&[b"x"]);
    assert_eq!(keyring.key("zzzzz-dz642-abcdefghijklmno").unwrap().mac(&[b"x"]), expected);
    assert!(keyring.key("other").is_none());

    let bad = dir.path().join("bad");
    for content in [&HEX[1..], &HEX.to_uppercase(), "not hexadecimal"] {
        write(&bad, content, 0o600);
        let error = error(&sources);
        assert!(error.contains("64 lower-case") && !error.contains(content), "{error}");
    }
    write(&bad, HEX, 0o604);
    assert!(error(&sources).contains("mode 604"));
    fs::remove_file(&bad).unwrap();
    write(&dir.path().join("-x"), HEX, 0o600);
    assert!(error(&sources).contains("rename"));
}

#[test]
fn the_root_secret_from_systemd() {
    let dir = TempDir::new().unwrap();
    let sources = KeySources { credentials_directory: Some(dir.path().to_owned()), ..KeySources::default() };
    assert!(error(&sources).contains("no secret is configured"));
    write(&dir.path().join("portsplice.root"), "root-secret", 0o440);
    assert!(Keyring::load(&sources).unwrap().has_root());
}

#[test]
fn debug_shows_no_key() {
    let keyring = Keyring::from_keys([("u".to_owned(), ContainerKey::from_hex(HEX).unwrap())]);
    let shown = format!("{keyring:?} {:?}", RootKey::new(b"root-secret"));
    assert!(shown.contains("***") && !shown.contains("baa5") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_registered_key_goes_before_all_others_and_leaves_nothing_behind() {
    let registered = Arc::<RegisteredKeys>::default();
    let keyring = Keyring::from_root(RootKey::new(b"root-secret")).with_registered(Arc::clone(&registered));
    let mac = || keyring.key("u").unwrap().mac(&[b"x"]);
    let derived = mac();
    registered.insert("u".to_owned(), ContainerKey::from_hex(HEX).unwrap());
    assert_ne!(mac(), derived);
    // As if a request with it were on its way while the registration ends.
    let (key, origin) = keyring.find("u").unwrap();
    registered.remove("u");
    keyring.remember("u", &key, origin);
    assert_eq!((mac(), keyring.derived_keys()), (derived, 0));
    assert!(Keyring::default().with_registered(registered).key("u").is_none());
}

#[test]
fn derived_keys_are_bounded() {
    let keyring = Keyring::from_root(RootKey::new(b"root-secret"));
    for i in 0..5000 {
        let uuid = i.to_string();
        let (key, derived) = keyring.find(&uuid).unwrap();
        keyring.remember(&uuid, &key, derived);
        assert_eq!(keyring.key(&uuid).unwrap().mac(&[b"x"]), key.mac(&[b"x"]));
    }
    assert!(keyring.derived_keys() <= 4096);
}

#[test]
fn a_fifo_among_the_keys_is_refused_and_waited_for_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("zzzzz-dz642-aaaaaaaaaaaaaaa");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let sources = KeySources { keys_dir: Some(dir.path().to_owned()), ..KeySources::default() };
    let error = error_line(&Keyring::load(&sources).unwrap_err());
    assert!(error.contains("it is not a regular file") && error.contains(fifo.to_str().unwrap()), "{error}");
}
