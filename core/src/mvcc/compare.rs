//! The comparisons of transactions, over ranges of any size in steps.
//!
//! A comparison of a range must hold for each of its keys. In a transaction that writes, its entry stays in front of all
//! others until it has been compared ([`Comparing`]); one that only reads compares at one revision while others write
//! ([`super::read_txn`]).

use core::cmp::Ordering;
use core::ops::{Bound, ControlFlow};

use ringstone_pager::api::{Access, Direction, ReadTrees};
use ringstone_proto::mvccpb::KeyValue;

use super::keys;
use super::lookup::{Version, current};
use super::range::Progress;
use super::record::{Meta, parse_live, value_of};
use crate::command::{ArchivedCompare, ArchivedOp, ArchivedOperand, ArchivedTxn, Compare, Operand};
use crate::trees::LIVE;

/// Which branch of a transaction, and of each one nested on the way, runs: decided in steps, all of one state.
#[derive(Debug, Default)]
pub struct Comparing {
    /// Of each transaction on the way, in the order of execution.
    path: Vec<bool>,
    /// Comparisons of the next transaction that hold.
    held: usize,
    range: CompareRange,
}

/// A comparison of a range under way: it holds for all keys so far.
#[derive(Debug, Default)]
struct CompareRange {
    /// The last key that was met; none: no key was.
    after: Option<Vec<u8>>,
}

impl Comparing {
    /// Goes on by at most `records` records, and by one at least; `view` is of the same state each time.
    ///
    /// # Errors
    /// An absent page: step again. Damage.
    pub fn step<V: ReadTrees>(&mut self, view: &V, txn: &ArchivedTxn, records: &mut usize) -> Access<Progress> {
        self.walk(view, txn, &mut 0, records)
    }

    /// Which branches run, once [`Comparing::step`] has said [`Progress::Done`].
    #[must_use]
    pub fn path(&self) -> &[bool] {
        &self.path
    }

    /// `at`: how many transactions of the path were passed.
    fn walk<V: ReadTrees>(
        &mut self,
        view: &V,
        txn: &ArchivedTxn,
        at: &mut usize,
        records: &mut usize,
    ) -> Access<Progress> {
        if *at == self.path.len() {
            let Some(succeeded) = self.all_hold(view, txn, records)? else { return Ok(Progress::More) };
            self.path.push(succeeded);
            self.held = 0;
        }
        let ops = if self.path[*at] { &txn.success } else { &txn.failure };
        *at += 1;
        for op in ops.iter() {
            if let ArchivedOp::Txn(nested) = op
                && self.walk(view, nested, at, records)? == Progress::More
            {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// None: go on in the next step.
    fn all_hold<V: ReadTrees>(&mut self, view: &V, txn: &ArchivedTxn, records: &mut usize) -> Access<Option<bool>> {
        while let Some(compare) = txn.compare.get(self.held) {
            let compare = CompareRef::from(compare);
            let holds = if compare.range_end.is_empty() {
                *records = records.saturating_sub(1);
                Some(holds(view, &compare)?)
            } else {
                self.range.step(view, &compare, records)?
            };
            match holds {
                Some(true) => self.held += 1,
                Some(false) => break,
                None => return Ok(None),
            }
            self.range = CompareRange::default();
        }
        self.range = CompareRange::default();
        Ok(Some(self.held == txn.compare.len()))
    }
}

impl CompareRange {
    /// Whether the comparison holds; none: for those that were met.
    fn step<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        compare: &CompareRef<'_>,
        records: &mut usize,
    ) -> Access<Option<bool>> {
        if keys::is_empty(compare.key, compare.range_end) {
            return holds_for(view, compare, None).map(Some);
        }
        let whole = keys::bounds(compare.key, compare.range_end);
        let met = self.after.take();
        let rest = (met.as_deref().map_or(whole.0, Bound::Excluded), whole.1);
        let mut after: Option<Vec<u8>> = None;
        let (mut fault, mut fails, mut ended) = (None, false, true);
        let visited = view.visit(LIVE, rest, Direction::Forward, true, &mut |key, bytes| {
            if *records == 0 && after.is_some() {
                ended = false;
                return ControlFlow::Break(());
            }
            let holds = parse_live(LIVE, bytes).and_then(|record| {
                if record.meta.tombstone {
                    return Ok(None);
                }
                holds_for(view, compare, Some(&Version { meta: record.meta, value: record.value })).map(Some)
            });
            match holds {
                Ok(None) => return ControlFlow::Continue(()),
                Ok(Some(true)) => {
                    *records = records.saturating_sub(1);
                    let last = after.get_or_insert_default();
                    last.clear();
                    last.extend_from_slice(key);
                    return ControlFlow::Continue(());
                }
                Ok(Some(false)) => fails = true,
                Err(met) => fault = Some(met),
            }
            ControlFlow::Break(())
        });
        self.after = after.or(met);
        visited?;
        match fault {
            Some(fault) => Err(fault),
            None if fails => Ok(Some(false)),
            None if !ended => Ok(None),
            None if self.after.is_some() => Ok(Some(true)),
            None => holds_for(view, compare, None).map(Some),
        }
    }
}

/// A comparison, wherever it stands.
pub(crate) struct CompareRef<'a> {
    result: i32,
    key: &'a [u8],
    range_end: &'a [u8],
    operand: OperandRef<'a>,
}

enum OperandRef<'a> {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(&'a [u8]),
    Lease(i64),
    Unknown,
}

impl<'a> From<&'a ArchivedCompare> for CompareRef<'a> {
    fn from(compare: &'a ArchivedCompare) -> CompareRef<'a> {
        let operand = match &compare.operand {
            ArchivedOperand::Version(given) => OperandRef::Version(given.to_native()),
            ArchivedOperand::Create(given) => OperandRef::Create(given.to_native()),
            ArchivedOperand::Mod(given) => OperandRef::Mod(given.to_native()),
            ArchivedOperand::Value(given) => OperandRef::Value(given),
            ArchivedOperand::Lease(given) => OperandRef::Lease(given.to_native()),
            ArchivedOperand::Unknown(_) => OperandRef::Unknown,
        };
        CompareRef { result: compare.result.to_native(), key: &compare.key, range_end: &compare.range_end, operand }
    }
}

impl<'a> From<&'a Compare> for CompareRef<'a> {
    fn from(compare: &'a Compare) -> CompareRef<'a> {
        let operand = match &compare.operand {
            Operand::Version(given) => OperandRef::Version(*given),
            Operand::Create(given) => OperandRef::Create(*given),
            Operand::Mod(given) => OperandRef::Mod(*given),
            Operand::Value(given) => OperandRef::Value(given),
            Operand::Lease(given) => OperandRef::Lease(*given),
            Operand::Unknown(_) => OperandRef::Unknown,
        };
        CompareRef { result: compare.result, key: &compare.key, range_end: &compare.range_end, operand }
    }
}

impl CompareRef<'_> {
    /// The keys that it compares; their end is empty where it is one.
    pub(crate) fn keys(&self) -> (&[u8], &[u8]) {
        (self.key, self.range_end)
    }

    /// Whether a key alone does not tell.
    pub(crate) fn wants_values(&self) -> bool {
        matches!(self.operand, OperandRef::Value(_) | OperandRef::Lease(_))
    }

    /// Whether it holds for a key with these fields; a value is only asked for where it counts.
    fn holds<'v>(&self, meta: Fields, value: impl FnOnce() -> Access<Option<&'v [u8]>>) -> Access<bool> {
        let ordering = match self.operand {
            OperandRef::Version(given) => meta.version.cmp(&given),
            OperandRef::Create(given) => meta.create.cmp(&given),
            OperandRef::Mod(given) => meta.modified.cmp(&given),
            OperandRef::Lease(given) => meta.lease.cmp(&given),
            OperandRef::Unknown => Ordering::Equal,
            OperandRef::Value(given) => {
                let Some(value) = value()? else { return Ok(false) };
                value.cmp(given)
            }
        };
        Ok(match self.result {
            0 => ordering.is_eq(),
            1 => ordering.is_gt(),
            2 => ordering.is_lt(),
            3 => ordering.is_ne(),
            _ => true,
        })
    }

    /// Whether it holds for what a range has given; none: for no key at all.
    pub(crate) fn holds_for_given(&self, kv: Option<&KeyValue>) -> bool {
        let fields = kv.map_or(Fields::default(), |kv| Fields {
            version: kv.version,
            create: kv.create_revision,
            modified: kv.mod_revision,
            lease: kv.lease,
        });
        self.holds(fields, || Ok(kv.map(|kv| &kv.value[..]))).expect("nothing is read")
    }
}

/// What is compared; of no key, all 0.
#[derive(Clone, Copy, Default)]
struct Fields {
    version: i64,
    create: i64,
    modified: i64,
    lease: i64,
}

impl From<&Meta> for Fields {
    fn from(meta: &Meta) -> Fields {
        Fields { version: meta.version, create: meta.create, modified: meta.revision.main, lease: meta.lease }
    }
}

/// Whether a comparison holds now, for every key of its range. No key at all is one with all fields 0 and without a
/// value, of which nothing can be said.
pub(crate) fn holds<V: ReadTrees + ?Sized>(view: &V, compare: &CompareRef<'_>) -> Access<bool> {
    if compare.range_end.is_empty() {
        let version = current(view, compare.key)?;
        return holds_for(view, compare, version.as_ref());
    }
    let holds = CompareRange::default().step(view, compare, &mut usize::MAX.clone())?;
    Ok(holds.expect("a step without a bound goes to the end"))
}

fn holds_for<V: ReadTrees + ?Sized>(view: &V, compare: &CompareRef<'_>, version: Option<&Version<'_>>) -> Access<bool> {
    let fields = version.map_or(Fields::default(), |version| Fields::from(&version.meta));
    compare.holds(fields, || version.map(|version| value_of(view, version.meta.revision, version.value)).transpose())
}

#[cfg(test)]
mod tests {
    use ringstone_pager::model::ModelTrees;

    use super::*;
    use crate::command::{ArchivedCommand, Command, Op, Put, Txn};
    use crate::mvcc::{self, record::SPECS};
    use crate::state::State;

    fn with<R>(command: &Command, run: impl FnOnce(&ArchivedCommand) -> R) -> R {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(command).expect("commands serialize");
        run(rkyv::access::<ArchivedCommand, rkyv::rancor::Error>(&bytes).expect("what was written is valid"))
    }

    fn version(key: &str, range_end: &str, version: i64) -> Compare {
        let (key, range_end) = (key.into(), range_end.into());
        Compare { result: 0, key, range_end, operand: Operand::Version(version) }
    }

    fn txn(compare: Vec<Compare>, nested: Vec<Txn>) -> Txn {
        let nested: Vec<Op> = nested.into_iter().map(Op::Txn).collect();
        Txn { compare, success: nested.clone(), failure: nested }
    }

    /// However few records a step compares, what it decides is what one step decides.
    #[test]
    fn steps_decide_what_one_step_decides() {
        let mut specs = SPECS.to_vec();
        specs.extend(crate::lease::state::TREE_SPECS);
        let (mut trees, mut state) = (ModelTrees::new(&specs), State::default());
        for number in 0..20 {
            // The last one twice.
            for _ in 0..1 + number / 19 {
                let put = Put { key: format!("k{number:02}").into_bytes(), ..Put::default() };
                with(&Command::Put(put), |put| mvcc::apply(&mut trees, &mut state, put)).expect("no faults");
            }
        }
        let cases = [
            (txn(vec![version("k", "l", 1)], vec![]), vec![false]),
            (txn(vec![version("k", "k19", 1), version("k19", "", 2), version("x", "y", 0)], vec![]), vec![true]),
            (txn(vec![version("x", "y", 1)], vec![]), vec![false]),
            (txn(vec![version("y", "x", 0)], vec![]), vec![true]),
            (
                txn(
                    vec![version("k", "k10", 1)],
                    vec![
                        txn(vec![version("k1", "l", 1)], vec![txn(vec![version("k", "k05", 1)], vec![])]),
                        txn(vec![version("k05", "k15", 1)], vec![]),
                    ],
                ),
                vec![true, false, true, true],
            ),
        ];
        for (txn, path) in cases {
            with(&Command::Txn(txn), |command| {
                let ArchivedCommand::Txn(txn) = command else { unreachable!("it is one") };
                for records in [1, 2, 7, usize::MAX] {
                    let (mut comparing, mut steps) = (Comparing::default(), 1);
                    while comparing.step(&trees, txn, &mut { records }).expect("no faults") == Progress::More {
                        steps += 1;
                        assert!(steps < 100, "each step goes on");
                    }
                    assert_eq!(comparing.path(), path, "{records} records a step");
                    assert!(records > 2 || path.len() < 4 || steps > 10, "{steps} steps of {records}");
                }
            });
        }
    }
}
