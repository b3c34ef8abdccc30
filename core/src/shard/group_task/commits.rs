//! Who is told at once that entries are committed?
//!
//! A leader tells the others so that they apply. Where a client of theirs waits for its own proposal, or for a read, that is
//! now. Else the next entries carry it, and nobody is woken for it alone; where none follow, it goes [`HELD_MAX`] later, which
//! is what watchers there and reads that need not be linearizable may be behind.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ahash::AHashMap;
use glommio::timer::sleep;
use ringstone_raft::{Body, Message, NodeId};

use super::{Driver, Inbox};

/// How long news of a commit waits for entries to go with. At a thousand puts a second most are followed within it.
const HELD_MAX: Duration = Duration::from_millis(2);

/// What this member, as the leader, knows of one other.
#[derive(Debug, Default)]
struct Hearer {
    /// The last entry that came from there, or that a read there counts on.
    asked: u64,
    /// The commit that it was told last.
    told: u64,
    /// News that wait, and since when.
    held: Option<(Message, Duration)>,
}

/// News of commits to other members.
#[derive(Default)]
pub(super) struct Commits {
    hearers: AHashMap<NodeId, Hearer>,
    is_armed: Rc<Cell<bool>>,
}

impl Commits {
    /// The entry with this index came from there: somebody waits for it.
    pub(super) fn note_asked(&mut self, by: NodeId, index: u64) {
        self.hearers.entry(by).or_default().asked = index;
    }

    /// A message is about to go: what goes, and before it what is held and may wait no longer.
    fn pass(&mut self, now: Duration, to: NodeId, message: Message) -> [Option<Message>; 2] {
        let hearer = self.hearers.entry(to).or_default();
        match &message.body {
            Body::Commit { committed, .. } => {
                let waits = hearer.asked > hearer.told;
                hearer.told = committed.0;
                if waits {
                    hearer.held = None;
                    return [None, Some(message)];
                }
                let since = hearer.held.take().map_or(now, |(_, since)| since);
                hearer.held = Some((message, since));
                [None, None]
            }
            // It says the same.
            Body::Append { committed, .. } => {
                hearer.told = committed.0;
                hearer.held = None;
                [None, Some(message)]
            }
            // Whoever gets this reads what is committed, as soon as it hears that it is.
            Body::ReadResponse { index, .. } => {
                hearer.asked = hearer.asked.max(index.0);
                [hearer.held.take().map(|(held, _)| held), Some(message)]
            }
            _ => [None, Some(message)],
        }
    }

    /// What has been held for long enough, and when the rest will have been.
    fn due(&mut self, now: Duration) -> (Vec<(NodeId, Message)>, Option<Duration>) {
        let (mut due, mut next) = (Vec::new(), None);
        for (to, hearer) in &mut self.hearers {
            match &hearer.held {
                Some((_, since)) if *since + HELD_MAX <= now => {
                    due.extend(hearer.held.take().map(|(held, _)| (*to, held)))
                }
                Some((_, since)) => next = next.into_iter().chain([*since + HELD_MAX]).min(),
                None => {}
            }
        }
        (due, next)
    }
}

impl Driver {
    /// Sends raft's messages, as far as they go now.
    pub(super) fn send_messages(&mut self, now: Duration, messages: Vec<(NodeId, Message)>) {
        let Some(links) = &self.others.links else { return };
        let commits = &mut self.others.commits;
        for (to, message) in messages {
            commits.pass(now, to, message).into_iter().flatten().for_each(|message| links.send(to, message));
        }
        let (due, next) = commits.due(now);
        due.into_iter().for_each(|(to, message)| links.send(to, message));
        if let Some(at) = next
            && !commits.is_armed.replace(true)
        {
            wake_at(at.saturating_sub(now), Rc::clone(&commits.is_armed), Rc::clone(&self.inbox));
        }
    }
}

fn wake_at(after: Duration, armed: Rc<Cell<bool>>, inbox: Rc<Inbox>) {
    glommio::spawn_local(async move {
        sleep(after).await;
        armed.set(false);
        inbox.wake.notify();
    })
    .detach();
}

#[cfg(test)]
mod tests {
    use ringstone_raft::{Index, Term};

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn message(body: Body) -> Message {
        Message { term: Term(1), body }
    }

    fn commit(committed: u64) -> Message {
        message(Body::Commit { index: Index(committed), entry_term: Term(1), committed: Index(committed) })
    }

    fn append(committed: u64) -> Message {
        let (previous_index, previous_term, committed) = (Index(committed), Term(1), Index(committed));
        message(Body::Append { previous_index, previous_term, committed, entries: Vec::new() })
    }

    fn at_ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn passed(commits: &mut Commits, ms: u64, to: NodeId, message: Message) -> Vec<Message> {
        commits.pass(at_ms(ms), to, message).into_iter().flatten().collect()
    }

    #[test]
    fn whoever_waits_is_told_at_once_and_others_with_the_next_entries() {
        let mut commits = Commits::default();
        commits.note_asked(A, 7);
        assert_eq!(passed(&mut commits, 0, A, commit(7)), [commit(7)]);
        assert_eq!(passed(&mut commits, 0, B, commit(7)), []);
        assert_eq!(passed(&mut commits, 1, A, commit(8)), [], "what it has asked for is told");
        assert_eq!(passed(&mut commits, 1, B, append(8)), [append(8)]);
        assert_eq!(commits.due(at_ms(2)), (vec![], Some(at_ms(3))), "A's alone");
    }

    #[test]
    fn where_no_entries_follow_it_waits_no_longer_than_it_may() {
        let mut commits = Commits::default();
        assert_eq!(passed(&mut commits, 10, A, commit(7)), []);
        assert_eq!(passed(&mut commits, 11, A, commit(8)), [], "the age is that of the first");
        assert_eq!(commits.due(at_ms(11)), (vec![], Some(at_ms(12))));
        assert_eq!(commits.due(at_ms(12)), (vec![(A, commit(8))], None));
        assert_eq!(commits.due(at_ms(99)), (vec![], None));
    }

    #[test]
    fn an_answer_to_a_read_comes_behind_what_it_counts_on() {
        let mut commits = Commits::default();
        assert_eq!(passed(&mut commits, 0, A, commit(7)), []);
        let answer = message(Body::ReadResponse { incarnation: 1, context: 2, index: Index(7) });
        assert_eq!(passed(&mut commits, 0, A, answer.clone()), [commit(7), answer.clone()]);
        assert_eq!(commits.due(at_ms(99)), (vec![], None));
        assert_eq!(passed(&mut commits, 0, B, answer.clone()), [answer]);
        assert_eq!(passed(&mut commits, 0, B, commit(7)), [commit(7)], "raft says it after the answer");
    }
}
