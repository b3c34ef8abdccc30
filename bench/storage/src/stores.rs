//! The stores, each behind the same few calls.

use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use heed::types::Bytes;
use heed::{EnvFlags, EnvOpenOptions};
use redb::{ReadableDatabase as _, TableDefinition};
use ringstone_pager::api::{Access, Aggregate, Direction, Fault, ReadTrees, TreeId, TreeSpec, WriteTrees};
use ringstone_pager::disk::{Disk as _, Io, IoPurpose, StdDisk, run};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::mapping::Mapping;
use ringstone_pager::{FileOptions, Pager, Reader};

/// When a batch of writes is on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    EachBatch,
    AtTheEnd,
}

type Put<'a> = dyn FnMut(&[u8], &[u8]) -> anyhow::Result<()> + 'a;

pub trait Store {
    fn name(&self) -> &'static str;

    /// How writes are synced from now on.
    fn reopen(&mut self, durability: Durability) -> anyhow::Result<()>;

    /// Puts entries in ascending order, then syncs.
    fn load(
        &mut self,
        numbers: &mut dyn Iterator<Item = u64>,
        entry: &mut dyn FnMut(u64, &mut Put<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()>;

    /// One batch: all of it or nothing.
    fn write(&mut self, batch: &mut dyn FnMut(&mut Put<'_>) -> anyhow::Result<()>) -> anyhow::Result<()>;

    fn sync(&mut self) -> anyhow::Result<()>;

    /// Looks keys up in one state; bytes of their values.
    fn gets(&mut self, keys: &[[u8; 24]]) -> anyhow::Result<usize>;

    /// Reads `count` entries from a key on; their bytes.
    fn scan(&mut self, from: &[u8], count: usize) -> anyhow::Result<usize>;

    fn file_bytes(&self) -> anyhow::Result<u64>;
}

pub fn all(folder: &Path) -> anyhow::Result<Vec<Box<dyn Store>>> {
    Ok(vec![
        Box::new(PagerStore::new(&folder.join("pages"))?),
        Box::new(Lmdb::new(&folder.join("lmdb"))?),
        Box::new(Redb::new(&folder.join("redb"))?),
    ])
}

const TREE: TreeId = TreeId(1);

/// What the store's own trees add up, too: a count, bytes, and a hash that stands in the entry.
fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    let hash = value.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
    Aggregate { count: 1, bytes: (key.len() + value.len()) as u64, hash }
}

const SPECS: &[TreeSpec] = &[TreeSpec { id: TREE, name: "live", summarize }];

/// As the server drives it: a batch is published; a checkpoint makes it durable, at once or when 32 MiB are dirty.
struct PagerStore {
    pager: Pager,
    reader: Reader,
    disk: StdDisk,
    durability: Durability,
}

const DIRTY_BYTES_MAX: u64 = 32 << 20;

impl PagerStore {
    fn new(path: &Path) -> anyhow::Result<PagerStore> {
        let mut disk = StdDisk::create(path)?;
        let mapping = Mapping::new(disk.file(), 0)?;
        let options = FileOptions { file_id: [3; 16], owner_id: [4; 16], trees: SPECS };
        let pager = Pager::create(&mut disk, Arc::new(mapping), &options)?;
        Ok(PagerStore { reader: pager.reader(), pager, disk, durability: Durability::AtTheEnd })
    }

    fn checkpoint(&mut self) -> anyhow::Result<()> {
        if !self.pager.checkpoint_begin()? {
            return Ok(());
        }
        loop {
            let (token, io) = self.pager.poll_io()?.context("a checkpoint has a request")?;
            self.disk.submit(token, io);
            let end = self.disk.poll().context("it is done while it is submitted")?;
            if self.pager.completed(end.token, end.result)?.is_some() {
                return Ok(());
            }
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        loop {
            match self.pager.put(TREE, key, &[value]) {
                Ok(()) => return Ok(()),
                Err(Fault::Absent(pages)) => {
                    if !self.pager.bring_in_cached(pages)? {
                        let (offset, bytes) = (pages.first * PAGE_BYTES as u64, pages.pages as usize * PAGE_BYTES);
                        run(&mut self.disk, Io::Read { offset, bytes, purpose: IoPurpose::ReadPage })?;
                        self.pager.bring_in_done(pages)?;
                    }
                }
                Err(Fault::Damaged(damage)) => anyhow::bail!("{damage}"),
            }
        }
    }

    /// Steps under a pin until nothing is absent.
    fn read<T>(&mut self, mut step: impl FnMut(&dyn ReadTrees) -> Access<T>) -> anyhow::Result<T> {
        loop {
            let pin = self.reader.pin();
            match step(&pin) {
                Ok(result) => return Ok(result),
                Err(Fault::Absent(pages)) => {
                    if !self.reader.bring_in_cached(pages)? {
                        let (offset, bytes) = (pages.first * PAGE_BYTES as u64, pages.pages as usize * PAGE_BYTES);
                        run(&mut self.disk, Io::Read { offset, bytes, purpose: IoPurpose::ReadPage })?;
                        self.reader.bring_in_done(pages)?;
                    }
                }
                Err(Fault::Damaged(damage)) => anyhow::bail!("{damage}"),
            }
        }
    }
}

impl Store for PagerStore {
    fn name(&self) -> &'static str {
        "pager"
    }

    fn reopen(&mut self, durability: Durability) -> anyhow::Result<()> {
        self.durability = durability;
        Ok(())
    }

    fn load(
        &mut self,
        numbers: &mut dyn Iterator<Item = u64>,
        entry: &mut dyn FnMut(u64, &mut Put<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for number in numbers {
            entry(number, &mut |key, value| self.put(key, value))?;
            if self.pager.dirty_bytes() >= DIRTY_BYTES_MAX {
                self.pager.publish();
                self.checkpoint()?;
            }
        }
        self.sync()
    }

    fn write(&mut self, batch: &mut dyn FnMut(&mut Put<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        batch(&mut |key, value| self.put(key, value))?;
        self.pager.publish();
        if self.durability == Durability::EachBatch || self.pager.dirty_bytes() >= DIRTY_BYTES_MAX {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        self.pager.publish();
        self.checkpoint()
    }

    fn gets(&mut self, keys: &[[u8; 24]]) -> anyhow::Result<usize> {
        self.read(|view| keys.iter().try_fold(0, |bytes, key| Ok(bytes + view.get(TREE, key)?.map_or(0, <[u8]>::len))))
    }

    fn scan(&mut self, from: &[u8], count: usize) -> anyhow::Result<usize> {
        self.read(|view| {
            let (mut bytes, mut left) = (0, count);
            let range = (Bound::Included(from), Bound::Unbounded);
            view.visit(TREE, range, Direction::Forward, true, &mut |key, value| {
                bytes += key.len() + value.len();
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok(bytes)
        })
    }

    fn file_bytes(&self) -> anyhow::Result<u64> {
        Ok(self.disk.length()?)
    }
}

struct Lmdb {
    path: PathBuf,
    env: Option<heed::Env>,
    database: heed::Database<Bytes, Bytes>,
}

fn open_lmdb(path: &Path, durability: Durability) -> anyhow::Result<heed::Env> {
    let mut options = EnvOpenOptions::new();
    options.map_size(64 << 30);
    let flags = if durability == Durability::AtTheEnd { EnvFlags::NO_SYNC } else { EnvFlags::empty() };
    // SAFETY: nobody else opens this file, and after a crash of this program it is thrown away.
    unsafe { options.flags(flags) };
    // SAFETY: the same.
    Ok(unsafe { options.open(path) }?)
}

impl Lmdb {
    fn new(path: &Path) -> anyhow::Result<Lmdb> {
        std::fs::create_dir(path)?;
        let env = open_lmdb(path, Durability::AtTheEnd)?;
        let mut txn = env.write_txn()?;
        let database = env.create_database(&mut txn, None)?;
        txn.commit()?;
        Ok(Lmdb { path: path.to_owned(), env: Some(env), database })
    }

    fn env(&self) -> anyhow::Result<&heed::Env> {
        self.env.as_ref().context("LMDB is open")
    }
}

impl Store for Lmdb {
    fn name(&self) -> &'static str {
        "LMDB"
    }

    fn reopen(&mut self, durability: Durability) -> anyhow::Result<()> {
        if let Some(env) = self.env.take() {
            env.prepare_for_closing().wait();
        }
        let env = open_lmdb(&self.path, durability)?;
        let txn = env.read_txn()?;
        self.database = env.open_database(&txn, None)?.context("the database was made")?;
        txn.commit()?;
        self.env = Some(env);
        Ok(())
    }

    fn load(
        &mut self,
        numbers: &mut dyn Iterator<Item = u64>,
        entry: &mut dyn FnMut(u64, &mut Put<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let database = self.database;
        let mut numbers = numbers.peekable();
        while numbers.peek().is_some() {
            let mut txn = self.env()?.write_txn()?;
            for number in numbers.by_ref().take(50_000) {
                entry(number, &mut |key, value| {
                    Ok(database.put_with_flags(&mut txn, heed::PutFlags::APPEND, key, value)?)
                })?;
            }
            txn.commit()?;
        }
        self.sync()
    }

    fn write(&mut self, batch: &mut dyn FnMut(&mut Put<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let database = self.database;
        let mut txn = self.env()?.write_txn()?;
        batch(&mut |key, value| Ok(database.put(&mut txn, key, value)?))?;
        Ok(txn.commit()?)
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        Ok(self.env()?.force_sync()?)
    }

    fn gets(&mut self, keys: &[[u8; 24]]) -> anyhow::Result<usize> {
        let txn = self.env()?.read_txn()?;
        keys.iter().try_fold(0, |bytes, key| Ok(bytes + self.database.get(&txn, key)?.map_or(0, <[u8]>::len)))
    }

    fn scan(&mut self, from: &[u8], count: usize) -> anyhow::Result<usize> {
        let txn = self.env()?.read_txn()?;
        let mut bytes = 0;
        for entry in self.database.range(&txn, &(Bound::Included(from), Bound::Unbounded))?.take(count) {
            let (key, value) = entry?;
            bytes += key.len() + value.len();
        }
        Ok(bytes)
    }

    fn file_bytes(&self) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(self.path.join("data.mdb"))?.len())
    }
}

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("live");

struct Redb {
    path: PathBuf,
    database: redb::Database,
    durability: Durability,
}

impl Redb {
    fn new(path: &Path) -> anyhow::Result<Redb> {
        Ok(Redb { path: path.to_owned(), database: redb::Database::create(path)?, durability: Durability::AtTheEnd })
    }

    fn begin(&self, durability: redb::Durability) -> anyhow::Result<redb::WriteTransaction> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(durability)?;
        Ok(txn)
    }
}

impl Store for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn reopen(&mut self, durability: Durability) -> anyhow::Result<()> {
        self.durability = durability;
        Ok(())
    }

    fn load(
        &mut self,
        numbers: &mut dyn Iterator<Item = u64>,
        entry: &mut dyn FnMut(u64, &mut Put<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut numbers = numbers.peekable();
        while numbers.peek().is_some() {
            let txn = self.begin(redb::Durability::None)?;
            {
                let mut table = txn.open_table(TABLE)?;
                for number in numbers.by_ref().take(50_000) {
                    entry(number, &mut |key, value| Ok(table.insert(key, value).map(|_| ())?))?;
                }
            }
            txn.commit()?;
        }
        self.sync()
    }

    fn write(&mut self, batch: &mut dyn FnMut(&mut Put<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let durability = match self.durability {
            Durability::EachBatch => redb::Durability::Immediate,
            Durability::AtTheEnd => redb::Durability::None,
        };
        let txn = self.begin(durability)?;
        {
            let mut table = txn.open_table(TABLE)?;
            batch(&mut |key, value| Ok(table.insert(key, value).map(|_| ())?))?;
        }
        Ok(txn.commit()?)
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        Ok(self.begin(redb::Durability::Immediate)?.commit()?)
    }

    fn gets(&mut self, keys: &[[u8; 24]]) -> anyhow::Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        keys.iter().try_fold(0, |bytes, key| {
            Ok(bytes + redb::ReadableTable::get(&table, &key[..])?.map_or(0, |value| value.value().len()))
        })
    }

    fn scan(&mut self, from: &[u8], count: usize) -> anyhow::Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut bytes = 0;
        for entry in redb::ReadableTable::range::<&[u8]>(&table, from..)?.take(count) {
            let (key, value) = entry?;
            bytes += key.value().len() + value.value().len();
        }
        Ok(bytes)
    }

    fn file_bytes(&self) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(&self.path)?.len())
    }
}
