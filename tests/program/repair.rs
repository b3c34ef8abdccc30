//! A member of three whose files are damaged, put back from a copy, or emptied: it mends itself from the others, or is
//! refused with the remedy, and clients of the other members notice nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::support::{RINGSTONE, folder, free_port};
use ringstone_core::command::{Command as StoreCommand, Put};
use ringstone_core::entry::{Draft, Entry, Envelope};
use ringstone_core::error::ApplyFault;
use ringstone_core::group::tree_specs;
use ringstone_core::mvcc;
use ringstone_core::state::State;
use ringstone_pager::api::{ReadTrees as _, WriteTrees as _};
use ringstone_pager::disk::{Disk as _, StdDisk};
use ringstone_pager::mapping::Mapping;
use ringstone_pager::{FileOptions, Pager};

const PAGE: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(60);

/// A place for a member of the cluster: it can be started again and again.
struct Seat {
    name: &'static str,
    folder: PathBuf,
    client: u16,
    flags: Vec<String>,
}

/// A member that runs; killed with the value.
struct Running {
    child: Child,
}

impl Running {
    fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "SIGTERM ends it with success");
    }

    /// Its exit status, once it has ended by itself.
    fn ended(&mut self) -> Option<i32> {
        wait("it ends by itself", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Seat {
    fn start(&self) -> Running {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = Command::new(RINGSTONE);
        command.args(&self.flags).stdout(Stdio::null()).stderr(log);
        Running { child: command.spawn().unwrap() }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.with_extension("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < PATIENCE, "{} does not say {text:?}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn member(&self) -> PathBuf {
        self.folder.join("member")
    }

    fn pages(&self) -> PathBuf {
        self.member().join("pages-0")
    }
}

/// One cluster at a time: their clocks are real.
static ONE: Mutex<()> = Mutex::new(());

/// Three members.
struct Cluster {
    seats: [Seat; 3],
    _folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

fn cluster() -> Cluster {
    let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let peers: [u16; 3] = std::array::from_fn(|_| free_port());
    let all: Vec<String> = (0..3).map(|number| format!("m{number}=http://127.0.0.1:{}", peers[number])).collect();
    let seats = std::array::from_fn(|number| {
        let name = ["m0", "m1", "m2"][number];
        let (client, peer, data) = (free_port(), peers[number], folder.path().join(name));
        let url = format!("http://127.0.0.1:{client}");
        let flags = [
            "serve".to_owned(),
            format!("--name={name}"),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster={}", all.join(",")),
            "--shards=1".to_owned(),
        ];
        Seat { name, folder: data, client, flags: flags.to_vec() }
    });
    Cluster { seats, _folder: folder, _turn: turn }
}

/// What came of a `ctl`; a member that does not answer within ten seconds has not.
fn ctl(seat: &Seat, words: &[&str]) -> (bool, String) {
    let endpoint = format!("--endpoints=127.0.0.1:{}", seat.client);
    let done =
        Command::new(RINGSTONE).arg("ctl").arg(endpoint).arg("--command-timeout=10s").args(words).output().unwrap();
    let text = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (done.status.success(), text)
}

fn put(seat: &Seat, key: &str, value: &str) {
    wait(&format!("{key} is put at {}", seat.name), || ctl(seat, &["put", key, value]).0.then_some(()));
}

fn reads(seat: &Seat, key: &str) -> String {
    wait(&format!("{key} is read at {}", seat.name), || {
        let (success, text) = ctl(seat, &["get", key, "--print-value-only"]);
        success.then(|| text.trim_end().to_owned())
    })
}

fn json(seat: &Seat, words: &[&str]) -> Option<serde_json::Value> {
    let (success, text) = ctl(seat, &[words, &["-w", "json"]].concat());
    success.then(|| serde_json::from_str(&text).unwrap())
}

/// What HashKV says at each, once they are equally far.
fn hashes_are_equal(seats: &[Seat; 3]) {
    wait("all members have the same hash", || {
        let hash = |seat: &Seat| json(seat, &["endpoint", "hashkv"])?[0]["HashKV"]["hash"].as_u64();
        let found = seats.each_ref().map(hash);
        (found[0].is_some() && found.iter().all(|hash| *hash == found[0])).then_some(())
    });
}

fn status(seat: &Seat) -> Option<(u64, u64)> {
    let found = json(seat, &["endpoint", "status"])?;
    let status = &found[0]["Status"];
    Some((status["header"]["member_id"].as_u64()?, status["leader"].as_u64()?))
}

fn leader(seats: &[Seat; 3]) -> usize {
    let leads = |seat: &Seat| status(seat).is_some_and(|(id, leader)| id == leader);
    wait("somebody leads", || seats.iter().position(leads))
}

/// Makes a member lead.
fn lead(seats: &[Seat; 3], number: usize) {
    wait("leadership moves", || {
        let (id, leader) = status(&seats[number])?;
        if id == leader {
            return Some(());
        }
        let everybody = seats.each_ref().map(|seat| format!("127.0.0.1:{}", seat.client)).join(",");
        let words = ["ctl", &format!("--endpoints={everybody}"), "move-leader", &format!("{id:x}")];
        let _ = Command::new(RINGSTONE).args(words).output().unwrap();
        None
    });
}

/// A cluster with some keys, some of them large enough that the page file has many pages; all checkpointed.
fn filled() -> (Cluster, [Option<Running>; 3]) {
    let cluster = cluster();
    let running = cluster.seats.each_ref().map(|seat| Some(seat.start()));
    let big = "x".repeat(3000);
    for number in 0..40 {
        put(&cluster.seats[number % 3], &format!("key{number:02}"), &format!("{number} {big}"));
    }
    (cluster, running)
}

/// The pages that `is_meant`; how many there were.
fn spoil_pages(path: &Path, is_meant: impl Fn(usize, &[u8]) -> bool) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let mut count = 0;
    for (number, page) in bytes.chunks_mut(PAGE).enumerate().filter(|(number, page)| is_meant(*number, page)) {
        assert!(number > 2, "header and metas are another case");
        [100, 2000, 4000].iter().for_each(|at| page[*at] ^= 0x5a);
        count += 1;
    }
    fs::write(path, bytes).unwrap();
    count
}

/// A page that holds a part of a large value: nothing but a read of such a value needs it.
fn is_value(page: &[u8]) -> bool {
    page.windows(300).any(|window| window.iter().all(|byte| *byte == b'x'))
}

/// The first batch that is not in the first block of the newest segment with records.
fn spoil_log(member: &Path) {
    let mut segments: Vec<PathBuf> =
        fs::read_dir(member.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let is_used = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes.get(2 * PAGE..3 * PAGE).is_some_and(|block| block.iter().any(|byte| *byte != 0))
    };
    let path = segments.into_iter().rev().find(is_used).expect("one has records");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len().min(2 * PAGE + 64);
    bytes[2 * PAGE + 48..end].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Found at the start: of a follower, and of whoever led before it was stopped.
#[test]
fn a_page_file_that_is_damaged_while_its_member_is_stopped_comes_back_from_the_others() {
    let (cluster, mut running) = filled();
    let seats = &cluster.seats;
    for of_leader in [false, true] {
        let first = leader(seats);
        let victim = if of_leader { first } else { (first + 1) % 3 };
        let (seat, other) = (&seats[victim], &seats[(victim + 1) % 3]);
        running[victim].take().unwrap().stop();
        assert!(spoil_pages(&seat.pages(), |number, _| number > 2) > 10);
        put(other, "meanwhile", seat.name);
        running[victim] = Some(seat.start());
        seat.wait_for("the member is whole again");
        assert_eq!(reads(seat, "meanwhile"), seat.name);
        assert!(reads(seat, "key39").starts_with("39 "));
        hashes_are_equal(seats);
        assert!(!seat.member().join("mend").exists());
    }
    running.into_iter().flatten().for_each(Running::stop);
}

/// Found by a read of a client, at whoever leads.
#[test]
fn a_leader_that_meets_a_damaged_page_hands_over_and_no_client_is_told_of_it() {
    let (cluster, mut running) = filled();
    let seats = &cluster.seats;
    let victim = leader(seats);
    let seat = &seats[victim];
    running[victim].take().unwrap().stop();
    assert!(spoil_pages(&seat.pages(), |number, page| number > 2 && is_value(page)) >= 40);
    running[victim] = Some(seat.start());
    put(seat, "after", "the restart");
    lead(seats, victim);
    let (success, text) = ctl(seat, &["get", "key33", "--print-value-only"]);
    // Asked again by this client until its time is up, or until the member is back.
    assert!(
        if success { text.starts_with("33 x") } else { !text.contains("DataLoss") && !text.contains("corrupt") },
        "{text}"
    );
    seat.wait_for("the member is whole again");
    assert!(reads(seat, "key33").starts_with("33 x"));
    assert_eq!(reads(seat, "after"), "the restart");
    hashes_are_equal(seats);
    running.into_iter().flatten().for_each(Running::stop);
}

#[test]
fn a_damaged_log_comes_back_from_a_proven_leader_and_forgotten_votes_do_not() {
    let (cluster, mut running) = filled();
    let seats = &cluster.seats;
    let victim = (leader(seats) + 1) % 3;
    let seat = &seats[victim];
    running[victim].take().unwrap().stop();
    spoil_log(&seat.member());
    put(&seats[(victim + 1) % 3], "meanwhile", "1");
    running[victim] = Some(seat.start());
    seat.wait_for("the member is whole again");
    assert_eq!(reads(seat, "meanwhile"), "1");
    hashes_are_equal(seats);
    // It counts again: with another member down, writes need it.
    let other = (victim + 1) % 3;
    running[other].take().unwrap().stop();
    put(seat, "with two", "of three");
    running[other] = Some(seats[other].start());
    hashes_are_equal(seats);

    // Log and ballot.
    running[victim].take().unwrap().stop();
    spoil_log(&seat.member());
    let ballot = seat.member().join("ballot");
    let mut bytes = fs::read(&ballot).unwrap();
    bytes[20] ^= 1;
    fs::write(&ballot, bytes).unwrap();
    let mut refused = seat.start();
    assert_eq!(refused.ended(), Some(13));
    let log = seat.log();
    assert!(log.contains("must not vote again") && log.contains("member remove"), "{log}");
    put(&seats[other], "still", "there");
    running.into_iter().flatten().for_each(Running::stop);
}

#[test]
fn a_folder_that_was_put_back_or_emptied_is_refused() {
    let (cluster, mut running) = filled();
    let seats = &cluster.seats;
    let victim = (leader(seats) + 1) % 3;
    let seat = &seats[victim];
    running[victim].take().unwrap().stop();
    let older = cluster.seats[victim].folder.with_extension("older");
    copy(&seat.folder, &older);
    running[victim] = Some(seat.start());
    put(seat, "promised", "since");
    running[victim].take().unwrap().stop();
    // The others forget all that is only in memory.
    for other in (0..3).filter(|other| *other != victim) {
        running[other].take().unwrap().stop();
        running[other] = Some(seats[other].start());
        put(&seats[other], "restarted", seats[other].name);
    }
    copy(&older, &seat.folder);
    let mut put_back = seat.start();
    assert_eq!(put_back.ended(), Some(12));
    let log = seat.log();
    assert!(log.contains("put back from a copy") && log.contains("add it anew"), "{log}");

    fs::remove_dir_all(&seat.folder).unwrap();
    let before = seat.log().len();
    let mut emptied = seat.start();
    assert_eq!(emptied.ended(), Some(12));
    assert!(seat.log()[before..].contains("add it anew with an empty data folder"), "{}", &seat.log()[before..]);
    let other = (victim + 1) % 3;
    put(&seats[other], "undisturbed", "1");
    running.into_iter().flatten().for_each(Running::stop);
}

/// The state of a stopped member as a faulty program or memory might leave it: whole, and not what the log says.
fn make_differ(seat: &Seat) {
    let identity = fs::read(seat.member().join("identity")).unwrap();
    let word = |at: usize| u64::from_le_bytes(identity[at..at + 8].try_into().unwrap());
    let mut owner_id = [0; 16];
    owner_id[..8].copy_from_slice(&word(40).to_be_bytes());
    owner_id[8..].copy_from_slice(&word(48).to_be_bytes());
    let specs = tree_specs();
    let options = FileOptions { file_id: identity[56..72].try_into().unwrap(), owner_id, trees: &specs };
    let mut disk = StdDisk::open(&seat.pages()).unwrap();
    let mapping = Arc::new(Mapping::new(disk.file(), disk.length().unwrap() / PAGE as u64).unwrap());
    let (mut pager, _) = Pager::open(&mut disk, mapping, &options, 0).unwrap();
    let mut state = State::from_attributes(pager.attributes()).unwrap();
    let put = Put { key: b"key11".to_vec(), value: b"nobody wrote this".to_vec(), ..Put::default() };
    let sealed = Draft::new(&Envelope::default(), &StoreCommand::Put(put)).seal(0, 0);
    let command = Entry::read(&sealed).unwrap().command;
    while let Err(fault) = mvcc::apply(&mut pager, &mut state, command) {
        let ApplyFault::Absent(run) = fault else { panic!("{fault}") };
        pager.bring_in_done(run).unwrap();
    }
    pager.set_attributes(&state.to_attributes());
    pager.publish();
    assert!(pager.checkpoint_begin().unwrap());
    'done: while let Some((token, io)) = pager.poll_io().unwrap() {
        disk.submit(token, io);
        while let Some(completion) = disk.poll() {
            if pager.completed(completion.token, completion.result).unwrap().is_some() {
                break 'done;
            }
        }
    }
}

#[test]
fn a_member_whose_state_differs_is_named_by_all_and_mends_itself() {
    let (cluster, mut running) = filled();
    let seats = &cluster.seats;
    for of_leader in [false, true] {
        let first = leader(seats);
        let victim = if of_leader { first } else { (first + 1) % 3 };
        let seat = &seats[victim];
        let lengths = seats.each_ref().map(|seat| seat.log().len());
        running[victim].take().unwrap().stop();
        make_differ(seat);
        running[victim] = Some(seat.start());
        if of_leader {
            lead(seats, victim);
        }
        // Comparisons go with progress.
        wait("the member is whole again", || {
            put(&seats[(victim + 1) % 3], "progress", "1");
            seat.log()[lengths[victim]..].contains("the member is whole again").then_some(())
        });
        for (seat, length) in seats.iter().zip(lengths) {
            assert!(
                seat.log()[length..].contains("differs from that of most members"),
                "{} has not said so",
                seat.name
            );
        }
        assert!(reads(seat, "key11").starts_with("11 "));
        hashes_are_equal(seats);
    }
    running.into_iter().flatten().for_each(Running::stop);
}
