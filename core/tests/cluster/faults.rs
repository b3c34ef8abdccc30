//! What goes wrong, drawn before the history begins: so one of them can be left out and the rest be tried again.

use super::random::Random;

/// What the mix of a seed leans to. Some histories are too rare where all faults are as likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    Mixed,
    /// Candidates of one term, voters that end behind their vote.
    Elections,
    /// Members that are left behind, with tails of their own.
    Images,
    /// Leaders that nobody follows any more, and holders that ask them.
    Leases,
    /// What disks do.
    Disks,
    /// What networks do.
    Links,
    /// Members that come and go.
    Members,
}

const THEMES: [Theme; 8] = [
    Theme::Mixed,
    Theme::Elections,
    Theme::Mixed,
    Theme::Images,
    Theme::Leases,
    Theme::Disks,
    Theme::Links,
    Theme::Members,
];

/// Who it happens to.
#[derive(Clone, Copy, Debug)]
pub enum Whom {
    Leader,
    /// The n-th member, modulo how many there are.
    Nth(u64),
}

/// A message that a member sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It votes for another one.
    Grants,
    /// It says that it has entries.
    Accepts,
    /// It sends entries.
    Appends,
    /// It asks for votes.
    Campaigns,
    /// It hands leadership over.
    HandsOver,
}

/// What a disk does to bytes that it has acknowledged.
#[derive(Clone, Copy, Debug)]
pub enum Harm {
    /// Bits change.
    Rot,
    /// A write went elsewhere: its place is as it was, another one is not.
    Misdirected,
    /// A write was never done.
    Lost,
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
    /// Its clock jumps ahead by so many milliseconds.
    ClockGap(Whom, u64),
    /// Its disk takes so many times longer.
    SlowDisk(Whom, u64),
    /// The next request of its log or its page file fails.
    DiskError(Whom, bool),
    /// Reads of both fail, the next start's too.
    ReadError(Whom),
    /// There is no more space.
    FullDisk(Whom),
    /// Bytes of its log or its page file are not those that were written; of one member at a time.
    Damage(Whom, Harm, bool),
    /// Whoever does this ends just behind it, and starts again soon; a few times.
    KillAt(Moment),
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
    /// Any directions of any links, by a seed.
    Cuts(u64),
    /// Each direction of each link has a delay of its own, by a seed; the longest in ms.
    SlowLinks(u64, u64),
    /// Per thousand: lost, doubled, damaged on the way; longest delay in ms.
    Weather { lost: u64, doubled: u64, damaged: u64, delay_ms: u64 },
    /// Whoever leads is isolated with so many puts that nobody else has.
    Flood(u64),
    /// Whoever leads ends, and is back to vote; links have delays of their own, by a seed and up to so many ms, so that
    /// campaigns of one term overlap; voters end behind their vote.
    Contest(u64, u64),
    /// Leadership is handed over, and from then on the former leader hears nobody.
    HandOverDeaf(u64),
    /// Leadership is handed over.
    Transfer(u64),
    /// A learner joins.
    Add,
    /// A learner votes.
    Promote,
    /// A member goes.
    Remove(u64),
    /// A member is gone with its disks, and another one takes its place.
    Replace(Whom),
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

/// What a seed means.
#[derive(Clone, Debug)]
pub struct Plan {
    pub members: u64,
    pub theme: Theme,
    /// Clocks of members may run this much faster or slower than time, in percent.
    pub drift_percent: u64,
    /// Applied entries that are kept in memory for others.
    pub retained_bytes: u64,
    /// Puts of several KiB, of a thousand.
    pub large_per_mille: u64,
    /// Messages go over QUIC, as datagrams.
    pub is_quic: bool,
    pub faults: Vec<Fault>,
}

impl Plan {
    /// `theme` instead of the seed's own.
    pub fn of(seed: u64, until: u64, theme: Option<Theme>) -> Plan {
        let mut random = Random::new(seed ^ 0xfa17);
        let drawn = THEMES[random.below(THEMES.len() as u64) as usize];
        let theme = theme.unwrap_or(drawn);
        let is_about_images = theme == Theme::Images;
        Plan {
            members: if seed.is_multiple_of(4) { 5 } else { 3 },
            theme,
            drift_percent: if random.chance(400) { random.between(1, DRIFT_PERCENT_MAX) } else { 0 },
            retained_bytes: if is_about_images { 12 << 10 } else { 64 << 10 },
            large_per_mille: if is_about_images { 60 } else { 10 },
            is_quic: seed % 8 == 5,
            faults: draw(&mut random, until, theme),
        }
    }
}

/// Clocks are that wrong at most.
pub const DRIFT_PERCENT_MAX: u64 = 5;

/// A theme by its name, for whoever looks for something.
pub fn theme(name: &str) -> Option<Theme> {
    THEMES.into_iter().find(|theme| format!("{theme:?}").eq_ignore_ascii_case(name))
}

/// Each seed has a mix of its own: some kinds often, some never.
fn draw(random: &mut Random, until: u64, theme: Theme) -> Vec<Fault> {
    let favourites = favourites(theme);
    let weights: Vec<u64> = (0..KINDS)
        .map(|kind| random.below(4) * random.below(4) + if favourites.contains(&kind) { 10 } else { 0 })
        .collect();
    let sum: u64 = weights.iter().sum::<u64>() + 1;
    let spacing = random.between(400_000, 900_000);
    // Or a seed could have too few changes of leader.
    let every = if theme == Theme::Elections { 2 } else { 5 };
    let mut faults = Vec::new();
    let mut at = 2_500_000;
    while at < until || faults.len() < 22 {
        if faults.len() % every == every - 1 {
            let kind = match random.below(5) {
                _ if theme == Theme::Elections && random.chance(700) => {
                    Kind::Contest(random.below(1 << 20), random.between(60, 500))
                }
                0 => Kind::Isolate(Whom::Leader),
                1 => Kind::PowerCut(Whom::Leader),
                2 => Kind::Kill(Whom::Leader),
                3 => Kind::Flood(random.between(10, 200)),
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

const KINDS: u64 = 28;

fn favourites(theme: Theme) -> &'static [u64] {
    match theme {
        Theme::Mixed => &[],
        Theme::Elections => &[10, 14, 18, 19, 22],
        Theme::Images => &[11, 20, 1, 27],
        Theme::Leases => &[3, 4, 11, 12, 21, 22],
        Theme::Disks => &[1, 5, 6, 7, 8, 9, 27],
        Theme::Links => &[12, 13, 14, 15, 16, 17, 18, 19],
        Theme::Members => &[23, 24, 25, 26],
    }
}

fn kind(number: u64, random: &mut Random) -> Kind {
    let whom = if random.chance(500) { Whom::Leader } else { Whom::Nth(random.below(60)) };
    let number_of = random.below(1 << 20);
    match number {
        0 => Kind::Kill(whom),
        1 => Kind::PowerCut(whom),
        2 => Kind::PowerCutOfAll,
        3 => Kind::Pause(whom),
        4 => Kind::ClockGap(whom, random.between(150, 6000)),
        5 => Kind::SlowDisk(whom, random.between(10, 300)),
        6 => Kind::DiskError(whom, random.chance(500)),
        7 => Kind::ReadError(whom),
        8 => Kind::FullDisk(whom),
        9 => {
            let harm = [Harm::Rot, Harm::Misdirected, Harm::Lost][random.below(3) as usize];
            Kind::Damage(whom, harm, random.chance(400))
        }
        10 => {
            let moments =
                [Moment::Grants, Moment::Grants, Moment::Grants, Moment::Accepts, Moment::Appends, Moment::Campaigns];
            Kind::KillAt(moments[random.below(moments.len() as u64) as usize])
        }
        11 => Kind::Isolate(whom),
        12 => Kind::Mute(whom),
        13 => Kind::Deaf(whom),
        14 => Kind::Bridge(number_of),
        15 => Kind::Split(number_of),
        16 => Kind::OneWay(number_of),
        17 => Kind::Cuts(number_of),
        18 => Kind::SlowLinks(number_of, random.between(5, 600)),
        19 => {
            let (lost, doubled, damaged) = (random.below(200), random.below(200), random.below(100));
            Kind::Weather { lost, doubled, damaged, delay_ms: random.between(1, 300) }
        }
        20 => Kind::Flood(random.between(10, 300)),
        21 => Kind::HandOverDeaf(number_of),
        22 => Kind::Transfer(number_of),
        23 => Kind::Add,
        24 => Kind::Promote,
        25 => Kind::Remove(number_of),
        26 => Kind::Replace(whom),
        _ => Kind::Evict(whom),
    }
}
