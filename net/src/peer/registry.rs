//! Which connection of a member counts?
//!
//! Both sides dial, processes restart, disks are cloned: more than one connection may claim to be a member's. Taking the
//! wrong one lets two processes vote as one member, or makes both sides close the connection that the other keeps.
//!
//! **Processes.** A member's incarnation grows at each start. Whoever is older than the latest one heard of is refused, and
//! so is another process of the same incarnation: a cloned disk, one that went back in time, or one that was emptied. A newer
//! one replaces. What was heard before this process started counts as well: the caller keeps it.
//!
//! **Connections of the same two processes.** Each hello has a number, growing in its process. `L` is the live connection
//! here, `N` the new one, `s(X)` the number of the other side's hello on X. Nobody sends a hello on a dial of his while he
//! holds a live connection, and nobody has two dials of one member under way. So:
//!
//! ```text
//! at the acceptor of N                                   keeps
//!   s(N) > s(L)  the other side had lost L by then         N
//!   s(N) < s(L)  the two dials crossed                     the one dialled by the smaller id
//! at the dialler of N, once it is accepted
//!   a live L was accepted meanwhile: they crossed          the one dialled by the smaller id
//! ```

use super::close::CloseCode;
use super::hello::{Hello, Refusal};

/// The latest process of a member that has spoken to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest {
    /// Its incarnation.
    pub incarnation: u64,
    /// None if only the incarnation is known.
    pub process: Option<u64>,
}

/// The live connection of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// True if we dialled it.
    pub dialled: bool,
    /// Its process.
    pub process: u64,
    /// Number of its hello.
    pub sequence: u64,
}

/// What becomes of a new connection whose hello is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is the live one now; one that was before ends, for this reason.
    Take(CloseCode),
    /// The live one stays.
    Keep,
}

/// Decides about a new connection of a member. `ours`: our member id.
///
/// # Errors
/// If its process is not the latest one of that member.
pub fn choose(
    ours: u64,
    latest: Option<Latest>,
    live: Option<Live>,
    hello: &Hello,
    dialled: bool,
) -> Result<Choice, Refusal> {
    if let Some(latest) = latest {
        check_process(ours, latest, hello)?;
    }
    let Some(live) = live else { return Ok(Choice::Take(CloseCode::Tie)) };
    if live.process != hello.process {
        return Ok(Choice::Take(CloseCode::Superseded));
    }
    let smaller_dialled_new = dialled == (ours < hello.from);
    let takes = match (dialled, live.dialled) {
        (false, _) if hello.sequence > live.sequence => true,
        // They crossed.
        (true, false) | (false, true) => smaller_dialled_new,
        // Both dialled by the same side: the later one, by the other side's count.
        (true, true) | (false, false) => hello.sequence > live.sequence,
    };
    Ok(if takes { Choice::Take(CloseCode::Tie) } else { Choice::Keep })
}

fn check_process(ours: u64, latest: Latest, hello: &Hello) -> Result<(), Refusal> {
    let (who, incarnation) = (hello.from, hello.incarnation);
    let text = if incarnation < latest.incarnation {
        format!(
            "member {ours:x} has already heard incarnation {} of member {who:x}, this process is incarnation {incarnation}: \
             its data folder is an older copy, or a second process runs as member {who:x}; stop one of the two, or remove \
             the member and add it anew with an empty data folder",
            latest.incarnation
        )
    } else if incarnation == latest.incarnation && latest.process.is_some_and(|process| process != hello.process) {
        format!(
            "member {ours:x} hears another process of incarnation {incarnation} of member {who:x}: two processes run as \
             member {who:x} on copies of one data folder, or its folder was emptied or put back from a copy; stop one of the \
             two, or remove the member and add it anew with an empty data folder"
        )
    } else {
        return Ok(());
    };
    Err(Refusal { code: CloseCode::Incarnation, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::hello::{Features, Identity};
    use proptest::prelude::*;

    fn hello(from: u64, to: u64, incarnation: u64, process: u64, sequence: u64) -> Hello {
        let features = Features::default();
        let known_features = features;
        Identity { cluster_id: 1, member_id: from, incarnation, process, features, known_features }.hello(to, sequence)
    }

    #[test]
    fn only_the_latest_process_counts() {
        let latest = Some(Latest { incarnation: 5, process: Some(50) });
        let live = Some(Live { dialled: true, process: 50, sequence: 1 });
        let code =
            |incarnation, process, live| match choose(1, latest, live, &hello(2, 1, incarnation, process, 9), false) {
                Ok(choice) => Ok(choice),
                Err(refusal) => {
                    assert!(refusal.text.contains("member 1") && refusal.text.contains("member 2"));
                    assert!(refusal.text.len() <= Refusal::TEXT_BYTES_MAX);
                    Err(refusal.code)
                }
            };
        assert_eq!(code(4, 40, live), Err(CloseCode::Incarnation));
        assert_eq!(code(4, 40, None), Err(CloseCode::Incarnation), "also when nobody else is there");
        assert_eq!(code(5, 51, live), Err(CloseCode::Incarnation));
        assert_eq!(code(5, 51, None), Err(CloseCode::Incarnation));
        assert_eq!(code(5, 50, None), Ok(Choice::Take(CloseCode::Tie)), "the same process again");
        assert_eq!(code(6, 60, live), Ok(Choice::Take(CloseCode::Superseded)), "it has restarted");
        let remembered = Some(Latest { incarnation: 5, process: None });
        assert_eq!(choose(1, remembered, None, &hello(2, 1, 5, 77, 1), false), Ok(Choice::Take(CloseCode::Tie)));
    }

    /// The table above, line by line; the model below can't tell a connection that is refused for nothing from a slow one.
    #[test]
    fn each_line_of_the_table() {
        let (take, keep) = (Ok(Choice::Take(CloseCode::Tie)), Ok(Choice::Keep));
        let chosen = |ours, live_dialled, sequence, dialled| {
            let live = Live { dialled: live_dialled, process: 20, sequence: 5 };
            choose(ours, None, Some(live), &hello(2, ours, 1, 20, sequence), dialled)
        };
        // Accepted, and the other side had lost the live one by then, whoever had dialled it and whose id is smaller.
        for (ours, live_dialled) in [(1, true), (1, false), (3, true), (3, false)] {
            assert_eq!(chosen(ours, live_dialled, 6, false), take, "{ours} {live_dialled}");
        }
        // Accepted, and crossed.
        assert_eq!(chosen(1, true, 4, false), keep);
        assert_eq!(chosen(3, true, 4, false), take);
        // Dialled, and crossed.
        assert_eq!(chosen(1, false, 4, true), take);
        assert_eq!(chosen(3, false, 4, true), keep);
        // A hello that comes late, of a connection that the other side has given up.
        assert_eq!(chosen(1, false, 4, false), keep);
    }

    /// One of the two sides of a model: one dial at a time, messages that arrive later, in the order of their connection.
    #[derive(Default)]
    struct Side {
        sequence: u64,
        live: Option<(usize, Live)>,
        dial: Option<usize>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Message {
        Hello { connection: usize, sequence: u64, answer: bool },
        Refused { connection: usize },
        Lost { connection: usize },
    }

    struct Pair {
        sides: [Side; 2],
        /// To each side, by connection: order holds within one connection only.
        mail: [Vec<Message>; 2],
        connections: Vec<usize>,
    }

    impl Pair {
        fn next_sequence(&mut self, side: usize) -> u64 {
            self.sides[side].sequence += 1;
            self.sides[side].sequence
        }

        fn dial(&mut self, side: usize) {
            if self.sides[side].live.is_some() || self.sides[side].dial.is_some() {
                return;
            }
            let connection = self.connections.len();
            self.connections.push(side);
            self.sides[side].dial = Some(connection);
            let sequence = self.next_sequence(side);
            self.mail[1 - side].push(Message::Hello { connection, sequence, answer: false });
        }

        /// The connection ends at `side`; the other one hears of it later.
        fn lose(&mut self, side: usize) {
            if let Some((connection, _)) = self.sides[side].live.take() {
                self.mail[1 - side].push(Message::Lost { connection });
            }
        }

        fn deliver(&mut self, side: usize, pick: usize) {
            if self.mail[side].is_empty() {
                return;
            }
            let of = |message: &Message| match *message {
                Message::Hello { connection, .. } | Message::Refused { connection } | Message::Lost { connection } => {
                    connection
                }
            };
            let picked = of(&self.mail[side][pick % self.mail[side].len()]);
            let at = self.mail[side].iter().position(|message| of(message) == picked).expect("the first of them");
            match self.mail[side].remove(at) {
                Message::Hello { connection, sequence, answer } => self.hello(side, connection, sequence, answer),
                Message::Refused { connection } | Message::Lost { connection } => self.ended(side, connection),
            }
        }

        fn ended(&mut self, side: usize, connection: usize) {
            let own = &mut self.sides[side];
            if own.dial == Some(connection) {
                own.dial = None;
            }
            if own.live.is_some_and(|(live, _)| live == connection) {
                own.live = None;
            }
        }

        fn hello(&mut self, side: usize, connection: usize, sequence: u64, answer: bool) {
            let (ours, theirs) = (side as u64 + 1, 2 - side as u64);
            let live = self.sides[side].live;
            if answer && self.sides[side].dial != Some(connection) {
                return;
            }
            let new = hello(theirs, ours, 1, theirs, sequence);
            let latest = Some(Latest { incarnation: 1, process: Some(theirs) });
            let choice = choose(ours, latest, live.map(|(_, live)| live), &new, answer).expect("the same process");
            if answer {
                self.sides[side].dial = None;
            }
            match choice {
                Choice::Take(_) => {
                    self.lose(side);
                    self.sides[side].live = Some((connection, Live { dialled: answer, process: theirs, sequence }));
                    if !answer {
                        let sequence = self.next_sequence(side);
                        self.mail[1 - side].push(Message::Hello { connection, sequence, answer: true });
                    }
                }
                Choice::Keep if answer => self.mail[1 - side].push(Message::Lost { connection }),
                Choice::Keep => self.mail[1 - side].push(Message::Refused { connection }),
            }
        }
    }

    proptest! {
        /// Whatever crosses whatever: once all is delivered, both sides hold the same connection or, after a loss, none, and
        /// then one more dial of either side gives it to both.
        #[test]
        fn both_sides_come_to_the_same_connection(steps in proptest::collection::vec((0usize..7, 0usize..8), 0..60)) {
            let mut pair = Pair { sides: Default::default(), mail: Default::default(), connections: Vec::new() };
            let mut lost = false;
            for (action, pick) in steps {
                match action {
                    0 | 1 => pair.dial(action),
                    2 if pick == 0 => { pair.lose(0); lost = true }
                    3 if pick == 0 => { pair.lose(1); lost = true }
                    side => pair.deliver(side % 2, pick),
                }
            }
            for round in 0..4 {
                while pair.mail.iter().any(|mail| !mail.is_empty()) {
                    pair.deliver(0, 0);
                    pair.deliver(1, 0);
                }
                let lives = [0, 1].map(|side| pair.sides[side].live.map(|(connection, _)| connection));
                prop_assert_eq!(lives[0], lives[1], "after {} rounds", round);
                if lives[0].is_some() {
                    return Ok(());
                }
                prop_assert!(lost || pair.connections.is_empty() || round > 0, "lost without a loss");
                pair.dial(round % 2);
            }
            prop_assert!(false, "no connection after four rounds");
        }
    }
}
