//! Ids, the identity file, and a member's folder: on the real file system, and on one that forgets what was not synced, stopped at each
//! change of it.

#[path = "sim.rs"]
mod sim;

use std::collections::BTreeSet;
use std::fs;

use sim::{Keep, SimFolder};

use super::*;

fn sample() -> Identity {
    Identity { cluster_id: 1, member_id: 2, file_id: [3; 16] }
}

fn build(page_file: &Path, wal_dir: &Path) -> Result<(), IdentityError> {
    fs::write(page_file, b"pages").map_err(io_error(page_file))?;
    assert!(wal_dir.is_dir());
    Ok(())
}

/// A byte that changes here is a new version of the format. The checksum was computed by another program (Python's zlib).
#[test]
fn golden_bytes() {
    let hex: String = sample().encode().iter().map(|byte| format!("{byte:02x}")).collect();
    let zeros = "0".repeat(48);
    let ids = "01000000000000000200000000000000".to_owned() + &"03".repeat(16);
    assert_eq!(hex, format!("5253544e4944454e010000000472b9fe{zeros}{ids}"));
}

/// etcd 3.7 prints 8e9e05c52164694d / cdf818194e3a8c32 for the default single member.
#[test]
fn ids_are_those_of_etcd() {
    let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
    assert_eq!(id, 0x8e9e_05c5_2164_694d);
    assert_eq!(cluster_id(&[id]), 0xcdf8_1819_4e3a_8c32);
}

#[test]
fn a_member_is_made_once_and_opens_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let paths = FolderPaths { data_dir: dir.path().join("data"), wal_dir: None };
    assert!(!paths.exists());
    let made = paths.create(sample(), build).expect("made");
    assert!(matches!(paths.open(), Err(IdentityError::InUse { .. })));
    drop(made);
    assert_eq!(paths.open().expect("opens").identity, sample());
}

#[test]
fn a_failed_making_leaves_no_member() {
    let dir = tempfile::tempdir().expect("temp dir");
    let paths = FolderPaths { data_dir: dir.path().to_owned(), wal_dir: None };
    let failed = paths.create(sample(), |page_file, _| Err(IdentityError::Missing { path: page_file.to_owned() }));
    assert!(failed.is_err() && !paths.exists());
    paths.create(sample(), build).expect("made after the failure");
}

/// A start with --wal-dir that was cut short left segments with an identity that no later start had: all were refused.
#[test]
fn a_log_elsewhere_that_was_not_finished_is_made_anew() {
    let dir = tempfile::tempdir().expect("temp dir");
    let wal_dir = dir.path().join("wal");
    let paths = FolderPaths { data_dir: dir.path().join("data"), wal_dir: Some(wal_dir.clone()) };
    let segment = wal_dir.join("0000000000000001.wal");
    let cut_short = |_: &Path, _: &Path| -> Result<(), IdentityError> {
        fs::write(&segment, b"half").map_err(io_error(&segment))?;
        panic!("the power fails")
    };
    let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| paths.create(sample(), cut_short)));
    assert!(cut.is_err() && segment.exists());
    let made = paths.create(sample(), |page_file, wal_dir| {
        assert!(!segment.exists(), "nobody's segment is gone");
        fs::write(&segment, b"whole").map_err(io_error(&segment))?;
        build(page_file, wal_dir)
    });
    drop(made.expect("made"));
    assert!(paths.open().is_ok() && segment.exists() && !wal_dir.join(UNFINISHED).exists());
    // A log that is somebody's stays, whatever becomes of the attempt.
    let other = FolderPaths { data_dir: dir.path().join("other"), wal_dir: Some(wal_dir) };
    let failed = other.create(sample(), |page_file, _| Err(IdentityError::Missing { path: page_file.to_owned() }));
    assert!(failed.is_err() && segment.exists());
}

#[test]
fn a_known_member_never_starts_without_its_parts() {
    let dir = tempfile::tempdir().expect("temp dir");
    let paths = FolderPaths { data_dir: dir.path().to_owned(), wal_dir: None };
    let made = paths.create(sample(), build).expect("made");
    fs::remove_file(&made.page_file).expect("removed");
    drop(made);
    assert!(matches!(paths.open(), Err(IdentityError::Missing { .. })));
}

#[test]
fn every_flipped_bit_of_the_identity_is_found() {
    let good = sample().encode();
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Identity::decode(Path::new("identity"), &bad).is_err(), "bit {bit}");
    }
}

const DATA: &str = "/above/data";

fn paths(wal_dir: Option<&str>) -> FolderPaths {
    FolderPaths { data_dir: DATA.into(), wal_dir: wal_dir.map(PathBuf::from) }
}

/// Makes a member whose parts are durable when `build` returns, as those of `group::create_files` are.
fn make(folder: &SimFolder, paths: &FolderPaths, file_id: u8) -> Result<MemberFolder, IdentityError> {
    let identity = Identity { file_id: [file_id; 16], ..sample() };
    paths.create_on(folder, identity, |page_file, wal_dir| {
        // For these the step stands for nothing: they are behind the disks of page file and log.
        let write = |path: &Path| change(folder, Step::WriteIdentity, Change::WriteNew(path, &[file_id]));
        let segments = segments(folder, wal_dir)?;
        if let Some(other) = segments.first() {
            return Err(IdentityError::Damaged { path: other.clone(), what: "the segment of another member" });
        }
        write(page_file)?;
        change(folder, Step::SyncStaging, Change::SyncDir(page_file.parent().expect("the folder")))?;
        write(&wal_dir.join("0000000000000001.wal"))?;
        write(&wal_dir.join("0000000000000002.wal"))?;
        change(folder, Step::SyncStaging, Change::SyncDir(wal_dir))
    })
}

/// A member that is there is whole: its parts carry the number of its identity.
fn is_whole(folder: &SimFolder, paths: &FolderPaths) -> Option<u8> {
    if !folder.exists(&paths.member()) {
        return None;
    }
    let opened = paths.open_on(folder).expect("a member that is there opens");
    let number = opened.identity.file_id[0];
    for part in [opened.page_file, opened.wal_dir.join("0000000000000001.wal")] {
        assert_eq!(folder.read(&part).expect("it is there"), [number], "{}", part.display());
    }
    Some(number)
}

fn keeps(number: u64) -> [Keep; 8] {
    let random = |more| Keep::Random(number * 31 + more);
    [Keep::All, Keep::Nothing, Keep::First(1), Keep::First(2), Keep::First(3), random(1), random(2), random(3)]
}

/// The making of a member is stopped at each change, and the making after that as well: what is there is a whole member or
/// none, and a third start makes or opens one. Once a making has said that it is done, its member stays.
#[test]
fn the_making_of_a_member_may_be_stopped_anywhere() {
    let mut stopped_at = BTreeSet::new();
    for wal_dir in [None, Some("/elsewhere/log"), Some("/above/data/log")] {
        let paths = paths(wal_dir);
        for first_stop in 0.. {
            let folder = SimFolder::new(first_stop);
            let first = make(&folder, &paths, 1);
            stopped_at.extend(folder.stopped_at());
            for keep in keeps(first_stop) {
                for second_stop in 0.. {
                    let context = format!("{wal_dir:?} {first_stop} {keep:?}, then {second_stop}");
                    let folder = folder.after(keep, second_stop);
                    let known = is_whole_or_off(&folder, &paths);
                    if let Some(known) = known {
                        assert_eq!(known, 1, "{context}");
                        break;
                    }
                    assert!(first.is_err() || folder.is_off(), "{context}: it was made, and it is gone");
                    let second = make(&folder, &paths, 2);
                    stopped_at.extend(folder.stopped_at());
                    for keep in keeps(second_stop) {
                        let folder = folder.after(keep, u64::MAX);
                        let context = format!("{context} {keep:?}");
                        let found = is_whole(&folder, &paths);
                        assert!(first.is_err() || found == Some(1), "{context}: it was made, and it is gone");
                        assert!(second.is_err() || found == Some(2), "{context}: it was made, and it is gone");
                        if found.is_none() {
                            make(&folder, &paths, 3).unwrap_or_else(|error| panic!("{context}: {error}"));
                            assert_eq!(is_whole(&folder, &paths), Some(3), "{context}");
                        }
                    }
                    if second.is_ok() {
                        break;
                    }
                }
            }
            if first.is_ok() {
                break;
            }
        }
    }
    let missed: Vec<&Step> = Step::ALL.iter().filter(|step| !stopped_at.contains(step)).collect();
    assert!(missed.is_empty(), "never stopped at {missed:?}");
}

/// Opening removes a mark, which may be stopped as well.
fn is_whole_or_off(folder: &SimFolder, paths: &FolderPaths) -> Option<u8> {
    if folder.exists(&paths.member()) && folder.is_off() {
        return is_whole(&folder.after(Keep::All, u64::MAX), paths);
    }
    match folder.exists(&paths.member()).then(|| paths.open_on(folder)) {
        Some(Err(IdentityError::Change { .. })) => is_whole(&folder.after(Keep::All, u64::MAX), paths),
        _ => is_whole(folder, paths),
    }
}

#[test]
fn a_refused_change_is_told_and_leaves_no_member() {
    for wal_dir in [None, Some("/elsewhere/log")] {
        let paths = paths(wal_dir);
        for number in 0.. {
            let folder = SimFolder::new(u64::MAX);
            folder.fail(number);
            let Err(error) = make(&folder, &paths, 1) else { break };
            let told = error.to_string();
            assert!(told.starts_with('/') && told.contains("Input/output error"), "{told}");
            // The last ones come when it is a member already.
            match is_whole(&folder.after(Keep::All, u64::MAX), &paths) {
                Some(found) => assert_eq!(found, 1),
                None => {
                    let folder = folder.after(Keep::Random(number), u64::MAX);
                    if is_whole(&folder, &paths).is_none() {
                        make(&folder, &paths, 2).expect("made after the failure");
                    }
                }
            }
        }
    }
}

/// Each piece of damage that `tests/damage` does to an identity file, in all places.
#[test]
fn a_damaged_identity_file_is_refused() {
    let paths = paths(None);
    let made = SimFolder::new(u64::MAX);
    make(&made, &paths, 1).expect("made");
    let good = sample().encode();
    let other = Identity { member_id: 99, ..sample() }.encode();
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    bad.push([&good[..], &[0]].concat());
    bad.push(vec![0; good.len()]);
    bad.push(vec![0xFF; 4096]);
    for at in 0..good.len() - 7 {
        for fill in [0, 0xFF] {
            let mut block = good;
            block[at..at + 8].fill(fill);
            bad.push(block.to_vec());
        }
        let mut mixed = good;
        mixed[at..].copy_from_slice(&other[at..]);
        bad.push(mixed.to_vec());
    }
    let path = paths.member().join("identity");
    let mut refused = 0;
    for bytes in bad.into_iter().filter(|bytes| *bytes != good && *bytes != other) {
        let folder = made.after(Keep::All, u64::MAX);
        change(&folder, Step::WriteIdentity, Change::RemoveFile(&path)).expect("it is there");
        change(&folder, Step::WriteIdentity, Change::WriteNew(&path, &bytes)).expect("it is not there");
        let told = paths.open_on(&folder).expect_err("damaged").to_string();
        assert!(told.contains("identity") && (told.contains("restore") || told.contains("upgrade")), "{told}");
        refused += 1;
    }
    assert!(refused > 200, "{refused}");
}
