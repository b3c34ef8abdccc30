//! A snapshot of the cluster becomes another cluster, as `snapshot restore` does it: each of its members is made from the same
//! image, they elect a leader, have all keys, and take puts at revisions that nobody has seen.

use ringstone_core::group::RestoreOptions;

use super::faults::Plan;
use super::node::{self, Node};
use super::random::Random;
use super::world::World;

const MEMBERS: u64 = 3;
const BUMP: u64 = 1000;
/// Simulated microseconds until all must be well.
const WITHIN_US: u64 = 8_000_000;
const PUTS: u64 = 20;

pub fn check(world: &World, seed: u64) {
    let Some(from) = world.configured().into_iter().find(|id| !world.nodes[id].is_damaged) else { return };
    let life = world.nodes[&from].life.as_ref().expect("at rest");
    let (_, image) = life.image(from).expect("it is not damaged");
    let (revision, keys) = life.range(&[0], &[0]).expect("it is not damaged");
    let members = (1..=MEMBERS).map(node::member).collect();
    let options = RestoreOptions { members, bump_revision: BUMP, mark_compacted: true };
    let plan = Plan { members: MEMBERS, faults: vec![], drift_percent: 0, ..world.plan.clone() };
    let mut random = Random::new(seed ^ 0x4e57);
    let nodes = (1..=MEMBERS).map(|id| Node::restored(id, &image, &options, &mut random, &plan)).collect();
    let mut restored = World::of(random, plan, nodes);
    restored.clients.is_stopped = true;
    restored.run_until(WITHIN_US);
    let leader = restored.leader().expect("the restored members elect one");
    let state = |world: &World, id: u64| {
        let life = world.nodes[&id].life.as_ref().expect("it is up");
        life.range(&[0], &[0]).expect("nothing is damaged there")
    };
    for id in 1..=MEMBERS {
        assert_eq!(state(&restored, id), (revision + BUMP as i64, keys.clone()), "restored member {id}");
    }
    restored.flood(leader, PUTS);
    restored.run_until(2 * WITHIN_US);
    let expected = state(&restored, leader);
    assert_eq!(expected.0, revision + BUMP as i64 + PUTS as i64, "each put has a revision of its own");
    for id in 1..=MEMBERS {
        assert_eq!(state(&restored, id), expected, "restored member {id} after {PUTS} puts");
    }
}
