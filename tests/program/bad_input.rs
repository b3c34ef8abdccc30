//! A start that can't be right: each has one message that names its cause, an exit status of its own, and leaves every file
//! as it was. docs/operations.md has the table of the statuses.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Member, RINGSTONE, arguments, folder, free_port};

/// A member that ran once and was stopped.
fn made(data_dir: &Path) {
    Member::start(data_dir).stop();
}

/// All files below a folder with their bytes.
fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(path).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.insert(path.clone(), Vec::new());
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

fn refused(output: &Output, status: i32, named: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}");
    let message = text.lines().filter(|line| line.starts_with("ringstone")).collect::<Vec<_>>();
    assert_eq!(message.len(), 1, "one message:\n{text}");
    assert!(message[0].contains(named), "{named:?} is not named:\n{text}");
}

/// Starts on a folder that can't be right.
fn expect(data_dir: &Path, more: &[&str], status: i32, named: &str) {
    let before = contents(data_dir);
    let output = Command::new(RINGSTONE).args(arguments(data_dir, free_port())).args(more).output().unwrap();
    refused(&output, status, named);
    assert!(before == contents(data_dir), "nothing was changed");
}

fn change(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Changes a byte of a file, which has the length of its block, under a right checksum: over `seed`, then all of the block
/// but the checksum.
fn forge(path: &Path, block_at: u64, (at, byte): (usize, u8), crc_at: usize, seed: &[u8]) {
    let mut block = vec![0; 4096];
    let mut file = File::open(path).unwrap();
    file.seek(SeekFrom::Start(block_at)).unwrap();
    let bytes = file.read(&mut block).unwrap();
    block.truncate(bytes);
    block[at] = byte;
    let mut crc = crc32fast::Hasher::new();
    crc.update(seed);
    crc.update(&block[..crc_at]);
    crc.update(&block[crc_at + 4..]);
    block[crc_at..crc_at + 4].copy_from_slice(&crc.finalize().to_le_bytes());
    change(path, block_at, &block);
}

fn first_segment(data_dir: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> =
        fs::read_dir(data_dir.join("member/wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    segments.sort();
    segments.remove(0)
}

#[test]
fn a_folder_or_a_port_in_use() {
    let root = folder();
    let data = root.path().join("data");
    let member = Member::start(&data);
    let output = Command::new(RINGSTONE).args(arguments(&data, free_port())).output().unwrap();
    refused(&output, 10, "in use by another process");
    let other = root.path().join("other");
    let output = Command::new(RINGSTONE).args(arguments(&other, member.port)).output().unwrap();
    refused(&output, 14, &format!("127.0.0.1:{}", member.port));
    assert!(!other.exists(), "nothing was made");
    member.stop();
}

#[test]
fn formats_of_another_version() {
    let root = folder();
    for part in ["identity", "pages-0", "wal"] {
        let data = root.path().join(part);
        made(&data);
        match part {
            "identity" => change(&data.join("member/identity"), 8, &[99]),
            "pages-0" => {
                let file = fs::read(data.join("member/pages-0")).unwrap();
                forge(&data.join("member/pages-0"), 0, (12, 99), 8, &file[16..32]);
            }
            _ => forge(&first_segment(&data), 0, (8, 99), 12, &[]),
        }
        expect(&data, &[], 11, "version");
    }
}

/// Parts of a format that a later version may add: none of them is damage.
#[test]
fn features_of_another_version() {
    let root = folder();
    let data = root.path().join("data");
    made(&data);
    let (identity, pages) = (data.join("member/identity"), data.join("member/pages-0"));
    let file = fs::read(&pages).unwrap();
    for class in [24, 32] {
        forge(&identity, 0, (class, 2), 12, &[]);
        expect(&data, &[], 11, "features (bits 0x2)");
        forge(&identity, 0, (class, 0), 12, &[]);
    }
    for (at, named) in [(64, "may only read"), (72, "does not know")] {
        forge(&pages, 0, (at, 2), 8, &file[16..32]);
        expect(&data, &[], 11, named);
        forge(&pages, 0, (at, 0), 8, &file[16..32]);
    }
    // The last tree of each meta that has some: page 1 and 2, their first root at 64, 48 bytes each.
    for meta in [4096, 8192] {
        let trees = file[meta + 12];
        if trees == 0 {
            continue;
        }
        forge(&pages, meta as u64, (64 + 48 * (usize::from(trees) - 1), 16), 8, &file[16..32]);
    }
    expect(&data, &[], 11, "tree 16");
}

#[test]
fn damage_and_missing_parts() {
    let root = folder();
    let data = root.path().join("data");
    made(&data);
    let identity = fs::read(data.join("member/identity")).unwrap();
    change(&data.join("member/identity"), 50, &[identity[50] ^ 1]);
    expect(&data, &[], 13, "checksum");
    change(&data.join("member/identity"), 50, &[identity[50]]);
    let (segment, aside) = (first_segment(&data), root.path().join("aside"));
    let header = fs::read(&segment).unwrap()[..64].to_vec();
    change(&segment, 20, &[header[20] ^ 1]);
    expect(&data, &[], 13, segment.file_name().unwrap().to_str().unwrap());
    change(&segment, 20, &[header[20]]);
    fs::rename(data.join("member/pages-0"), &aside).unwrap();
    expect(&data, &[], 13, "is missing");
    fs::rename(&aside, data.join("member/pages-0")).unwrap();
    fs::rename(data.join("member/wal"), &aside).unwrap();
    expect(&data, &[], 13, "is missing");
    fs::create_dir(data.join("member/wal")).unwrap();
    expect(&data, &[], 13, "no log");
    fs::remove_dir(data.join("member/wal")).unwrap();
    fs::rename(&aside, data.join("member/wal")).unwrap();
    made(&data);
}

#[test]
fn files_of_another_member() {
    let root = folder();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    made(&one);
    made(&two);
    let foreign_log = format!("--wal-dir={}", two.join("member/wal").display());
    expect(&one, &[&foreign_log], 12, "belongs to");
    let new = root.path().join("new");
    let before = contents(&two);
    let output = Command::new(RINGSTONE).args(arguments(&new, free_port())).arg(&foreign_log).output().unwrap();
    refused(&output, 12, "belongs to");
    assert!(before == contents(&two), "the other member's log is as it was");
    assert!(!new.join("member").exists());
    fs::copy(two.join("member/pages-0"), one.join("member/pages-0")).unwrap();
    expect(&one, &[], 12, "files were exchanged");
}

#[test]
fn limits_and_folders_that_cannot_be_written() {
    let root = folder();
    let data = root.path().join("data");
    let shell = |limits: &str| {
        let script = format!("{limits}; exec \"$0\" \"$@\"");
        Command::new("sh").arg("-c").arg(script).arg(RINGSTONE).args(arguments(&data, free_port())).output().unwrap()
    };
    refused(&shell("ulimit -n 64"), 18, "file descriptors");
    assert!(!data.exists());
    // A folder in which not even root can make anything.
    let output = Command::new(RINGSTONE).args(arguments(Path::new("/sys/ringstone"), free_port())).output().unwrap();
    refused(&output, 20, "/sys/ringstone");
}

/// What container runtimes do by default: io_uring_setup is answered with EPERM.
#[test]
fn io_uring_forbidden_by_seccomp() {
    let root = folder();
    let data = root.path().join("data");
    let mut command = Command::new(RINGSTONE);
    command.args(arguments(&data, free_port()));
    // SAFETY: the closure only makes system calls between fork and exec.
    unsafe { command.pre_exec(forbid_io_uring) };
    refused(&command.output().unwrap(), 17, "seccomp");
    assert!(!data.join("member").exists() && !data.join("member.tmp").exists());
}

fn forbid_io_uring() -> std::io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let setup = libc::SYS_io_uring_setup as u32;
    let mut filter = [
        // The number of the system call stands first.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, setup) },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program points to a filter of its length; both live through the calls.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Needs a file system of its own: root, or user namespaces.
#[test]
fn a_disk_that_is_full_or_read_only() {
    let root = folder();
    let data = root.path().join("mount/data");
    fs::create_dir(root.path().join("mount")).unwrap();
    let inside = |script: &str| {
        let script = format!("mount -t tmpfs -o size=12m none \"$M\" || exit 99; {script}");
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &script, RINGSTONE]).args(arguments(&data, free_port()));
        command.env("M", root.path().join("mount")).output().unwrap()
    };
    if inside("exit 0").status.code() != Some(0) {
        eprintln!("skipped: no mount namespaces here");
        return;
    }
    let kept = "code=$?; [ -z \"$(find \"$M\" -type f)\" ] || code=98; exit $code";
    refused(&inside(&format!("\"$0\" \"$@\"; {kept}")), 15, "No space left");
    refused(&inside(&format!("mount -o remount,ro \"$M\"; \"$0\" \"$@\"; {kept}")), 20, "Read-only file system");
}
