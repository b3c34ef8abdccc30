//! Who votes? A wrong answer is two leaders, so there is one function that counts: [`Configuration::quorum_value`].

use crate::NodeId;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

/// Voters and learners of one configuration, both halves of a joint one included. Counting is quadratic; etcd advises
/// seven voters.
pub const MEMBERS_MAX: usize = 64;

/// First byte of an encoded configuration.
const FORMAT_VERSION: u8 = 1;

/// One step of a change of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Becomes a voter, whatever it was.
    Voter(NodeId),
    /// Becomes a learner, whatever it was. A voter stays one in the half that a joint configuration leaves.
    Learner(NodeId),
    /// Is no member any more; nothing where it is none.
    Remove(NodeId),
}

/// The members of a group. Lists are ascending. Joint (`outgoing` not empty) means that an agreement needs a majority of
/// `voters` and a majority of `outgoing`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    voters: Vec<NodeId>,
    outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
}

impl Configuration {
    /// A configuration that is not joint; order and repetition do not matter. `None` without a voter, where a voter is
    /// also a learner, or past [`MEMBERS_MAX`].
    pub fn new(
        voters: impl IntoIterator<Item = NodeId>,
        learners: impl IntoIterator<Item = NodeId>,
    ) -> Option<Configuration> {
        let configuration =
            Configuration { voters: ascending(voters), outgoing: Vec::new(), learners: ascending(learners) };
        configuration.is_valid().then_some(configuration)
    }

    /// The configuration after these changes, one after the other; what a joint one leaves is not in it. `None` where the
    /// outcome cannot be, as with [`Configuration::new`].
    pub fn changed(&self, changes: &[Change]) -> Option<Configuration> {
        let (mut voters, mut learners) = (self.voters.clone(), self.learners.clone());
        for change in changes {
            let (Change::Voter(id) | Change::Learner(id) | Change::Remove(id)) = *change;
            voters.retain(|voter| *voter != id);
            learners.retain(|learner| *learner != id);
            match change {
                Change::Voter(_) => voters.push(id),
                Change::Learner(_) => learners.push(id),
                Change::Remove(_) => {}
            }
        }
        Configuration::new(voters, learners)
    }

    /// Voters of the target configuration.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Voters of the configuration that is being left; empty where not joint.
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    /// Learners: they receive the log and do not count. While joint, one may still vote in `outgoing`: what etcd keeps in
    /// a list of its own, `learners_next`.
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// Whether two majorities are needed.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the member votes in either half.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.binary_search(&id).is_ok() || self.outgoing.binary_search(&id).is_ok()
    }

    /// Every member once, ascending.
    pub fn members(&self) -> Vec<NodeId> {
        ascending(self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied())
    }

    /// The largest value that a quorum has reached; 0 without voters.
    pub(crate) fn quorum_value(&self, value_of: impl Fn(NodeId) -> u64) -> u64 {
        let incoming = majority_value(&self.voters, &value_of);
        if self.is_joint() { incoming.min(majority_value(&self.outgoing, &value_of)) } else { incoming }
    }

    /// Whether those for whom `holds` is true are a quorum.
    pub(crate) fn is_quorum(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.quorum_value(|id| u64::from(holds(id))) == 1
    }

    /// How to get from here to `target`: directly where at most one voter differs (any two majorities then overlap; thesis
    /// 4.1), else by a joint configuration (4.3).
    pub(crate) fn toward(&self, target: &Configuration) -> Configuration {
        let added = target.voters.iter().filter(|id| self.voters.binary_search(id).is_err()).count();
        let removed = self.voters.iter().filter(|id| target.voters.binary_search(id).is_err()).count();
        let outgoing = if added + removed <= 1 { Vec::new() } else { self.voters.clone() };
        Configuration { outgoing, ..target.clone() }
    }

    /// The configuration behind a joint one.
    pub(crate) fn without_outgoing(&self) -> Configuration {
        Configuration { outgoing: Vec::new(), ..self.clone() }
    }

    pub(crate) fn is_valid(&self) -> bool {
        let is_ascending = |ids: &[NodeId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        !self.voters.is_empty()
            && self.voters.len() + self.outgoing.len() + self.learners.len() <= MEMBERS_MAX
            && is_ascending(&self.voters)
            && is_ascending(&self.outgoing)
            && is_ascending(&self.learners)
            && self.learners.iter().all(|id| self.voters.binary_search(id).is_err())
    }

    /// The payload of a configuration entry: version (1 byte), then for voters, outgoing and learners a count (2 bytes,
    /// little endian) and the ids (8 bytes each, little endian), then `context` to the end.
    pub fn encode(&self, context: &[u8]) -> Bytes {
        let mut payload = BytesMut::with_capacity(self.encoded_bytes() + context.len());
        payload.put_u8(FORMAT_VERSION);
        for list in [&self.voters, &self.outgoing, &self.learners] {
            payload.put_u16_le(list.len() as u16);
            list.iter().for_each(|id| payload.put_u64_le(id.0));
        }
        payload.put_slice(context);
        payload.freeze()
    }

    /// How long the encoding is without a context.
    pub(crate) fn encoded_bytes(&self) -> usize {
        1 + 3 * 2 + (self.voters.len() + self.outgoing.len() + self.learners.len()) * 8
    }

    /// Reads the payload of a configuration entry: the configuration and the proposer's context (empty in the entry that
    /// leaves a joint one). `None` where the bytes are not a valid configuration.
    pub fn decode(payload: &Bytes) -> Option<(Configuration, Bytes)> {
        let (&version, mut rest) = payload.split_first()?;
        if version != FORMAT_VERSION {
            return None;
        }
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for list in &mut lists {
            let (count, behind) = rest.split_first_chunk::<2>()?;
            let count = usize::from(u16::from_le_bytes(*count));
            if count > MEMBERS_MAX {
                return None;
            }
            let (ids, behind) = behind.split_at_checked(count * 8)?;
            list.extend(ids.as_chunks::<8>().0.iter().map(|id| NodeId(u64::from_le_bytes(*id))));
            rest = behind;
        }
        let context = payload.slice(payload.len() - rest.len()..);
        let [voters, outgoing, learners] = lists;
        let configuration = Configuration { voters, outgoing, learners };
        configuration.is_valid().then_some((configuration, context))
    }
}

fn ascending(ids: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Quadratic and without allocation: there are a handful of voters, and this runs at every acknowledgement.
fn majority_value(voters: &[NodeId], value_of: &impl Fn(NodeId) -> u64) -> u64 {
    let needed = voters.len() / 2 + 1;
    let reached = |value: u64| voters.iter().filter(|id| value_of(**id) >= value).count() >= needed;
    voters.iter().map(|id| value_of(*id)).filter(|value| reached(*value)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> Vec<NodeId> {
        numbers.iter().map(|number| NodeId(*number)).collect()
    }

    #[test]
    fn a_joint_quorum_needs_both_majorities() {
        let joint = Configuration { voters: ids(&[3, 4, 5]), outgoing: ids(&[1, 2, 3]), learners: ids(&[]) };
        assert!(!joint.is_quorum(|id| id.0 >= 3), "the new half alone");
        assert!(!joint.is_quorum(|id| id.0 <= 3), "the old half alone");
        assert!(joint.is_quorum(|id| [2, 3, 4].contains(&id.0)));
        assert_eq!(joint.quorum_value(|id| 10 * id.0), 20, "new: 40, old: 20");
    }

    #[test]
    fn nobody_is_no_quorum() {
        assert_eq!(Configuration::default().quorum_value(|_| 7), 0);
    }

    #[test]
    fn two_changed_voters_need_a_joint_step() {
        let three = Configuration::new(ids(&[1, 2, 3]), []).expect("valid");
        let four = Configuration::new(ids(&[1, 2, 3, 4]), []).expect("valid");
        let replaced = Configuration::new(ids(&[1, 2, 4]), []).expect("valid");
        assert!(!three.toward(&four).is_joint());
        assert_eq!(three.toward(&replaced).outgoing(), three.voters());
    }

    #[test]
    fn changes_are_made_one_after_the_other() {
        let three = Configuration::new(ids(&[1, 2, 3]), ids(&[8])).expect("valid");
        let changes = [
            Change::Voter(NodeId(8)),
            Change::Learner(NodeId(1)),
            Change::Remove(NodeId(2)),
            Change::Remove(NodeId(77)),
            Change::Learner(NodeId(9)),
        ];
        let changed = three.changed(&changes).expect("two voters");
        assert_eq!((changed.voters(), changed.learners()), (&ids(&[3, 8])[..], &ids(&[1, 9])[..]));
        assert_eq!(three.changed(&[1, 2, 3].map(|id| Change::Remove(NodeId(id)))), None, "nobody votes");
    }

    #[test]
    fn the_encoding_is_fixed_and_refuses_what_it_did_not_make() {
        let joint = Configuration { voters: ids(&[1, 2]), outgoing: ids(&[2]), learners: ids(&[9]) };
        let payload = joint.encode(b"ctx");
        let expected = [
            &[1u8][..],
            &[2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            b"ctx",
        ]
        .concat();
        assert_eq!(payload, expected);
        assert_eq!(Configuration::decode(&payload), Some((joint, Bytes::from_static(b"ctx"))));
        for cut in 0..expected.len() - 3 {
            assert_eq!(Configuration::decode(&payload.slice(..cut)), None, "cut at {cut}");
        }
        assert_eq!(Configuration::decode(&Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0])), None, "no voter");
        assert_eq!(Configuration::decode(&Bytes::from_static(&[1, 255, 255])), None, "absurd count");
    }
}
