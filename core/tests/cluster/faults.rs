//! What goes wrong, drawn before the history begins: so one of them can be left out and the rest be tried again.

use super::random::Random;

/// Who it happens to.
#[derive(Clone, Copy, Debug)]
pub enum Whom {
    Leader,
    /// The n-th member, modulo how many there are.
    Nth(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The process is killed.
    Kill(Whom),
    /// The power fails: what was not synced is lost, torn or kept.
    PowerCut(Whom),
    /// All of them at once.
    PowerCutOfAll,
    /// The process, or its whole machine, stands still; its clock goes on.
    Pause(Whom),
    /// Its disk takes so many times longer.
    SlowDisk(Whom, u64),
    /// The next request of its log or its page file fails.
    DiskError(Whom, bool),
    /// No message to it and from it.
    Isolate(Whom),
    /// It can't be heard.
    Mute(Whom),
    /// It hears nobody.
    Deaf(Whom),
    /// Two halves, and one member between them that both can talk to.
    Bridge(u64),
    /// Two halves.
    Split(u64),
    /// One direction of one link.
    OneWay(u64),
    /// Per thousand: lost, doubled; longest delay in ms.
    Weather { lost: u64, doubled: u64, delay_ms: u64 },
    /// Leadership is handed over.
    Transfer(u64),
    /// A learner joins.
    Add,
    /// A learner votes.
    Promote,
    /// A member goes.
    Remove(u64),
    /// Its pages leave memory.
    Evict(Whom),
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Microseconds of the history.
    pub at: u64,
    pub lasts: u64,
    pub kind: Kind,
}

/// Each seed has a mix of its own: some kinds often, some never.
pub fn draw(random: &mut Random, until: u64) -> Vec<Fault> {
    let weights: Vec<u64> = (0..KINDS).map(|_| random.below(4) * random.below(4)).collect();
    let sum: u64 = weights.iter().sum::<u64>() + 1;
    let spacing = random.between(400_000, 900_000);
    let mut faults = Vec::new();
    let mut at = 2_500_000;
    while at < until || faults.len() < 22 {
        if faults.len() % 5 == 4 {
            // Or a seed could have too few changes of leader.
            let kind = match random.below(4) {
                0 => Kind::Isolate(Whom::Leader),
                1 => Kind::PowerCut(Whom::Leader),
                2 => Kind::Kill(Whom::Leader),
                _ => Kind::Pause(Whom::Leader),
            };
            let lasts = random.between(2_200_000, 3_500_000);
            faults.push(Fault { at, lasts, kind });
            at += random.between(spacing / 2, spacing * 4);
            continue;
        }
        let mut ticket = random.below(sum);
        let drawn = weights.iter().position(|weight| {
            let is_it = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            is_it
        });
        let kind = match drawn {
            Some(number) => kind(number as u64, random),
            None => Kind::PowerCutOfAll,
        };
        let lasts = match random.below(4) {
            0 => random.between(10_000, 200_000),
            1 => random.between(2_000_000, 4_000_000),
            _ => random.between(300_000, 1_800_000),
        };
        faults.push(Fault { at, lasts, kind });
        at += random.between(spacing / 4, spacing * 2);
    }
    faults
}

const KINDS: u64 = 18;

fn kind(number: u64, random: &mut Random) -> Kind {
    let whom = if random.chance(500) { Whom::Leader } else { Whom::Nth(random.below(60)) };
    let number_of = random.below(1 << 20);
    match number {
        0 => Kind::Kill(whom),
        1 => Kind::PowerCut(whom),
        2 => Kind::PowerCutOfAll,
        3 => Kind::Pause(whom),
        4 => Kind::SlowDisk(whom, random.between(10, 300)),
        5 => Kind::DiskError(whom, random.chance(500)),
        6 => Kind::Isolate(whom),
        7 => Kind::Mute(whom),
        8 => Kind::Deaf(whom),
        9 => Kind::Bridge(number_of),
        10 => Kind::Split(number_of),
        11 => Kind::OneWay(number_of),
        12 => Kind::Weather { lost: random.below(200), doubled: random.below(200), delay_ms: random.between(1, 300) },
        13 => Kind::Transfer(number_of),
        14 => Kind::Add,
        15 => Kind::Promote,
        16 => Kind::Remove(number_of),
        _ => Kind::Evict(whom),
    }
}
