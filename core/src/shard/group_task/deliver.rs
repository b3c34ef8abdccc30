//! What the group gives: to the shards, to other members.

use std::time::Duration;

use glommio::channels::shared_channel::ConnectedSender;
use glommio::{GlommioError, ResourceType};

use super::Driver;
use super::others::STRANGER;
use crate::error::Error;
use crate::event::EventBatch;
use crate::group::{GroupError, NOBODY, Outputs};
use crate::said::Said;
use crate::shard::link::{FromGroup, Told};
use crate::shard::{boottime, images};

/// The way to a shard on another thread.
pub struct Remote {
    /// The queue.
    pub sender: ConnectedSender<FromGroup>,
    /// What did not fit into it yet.
    pub backlog: FromGroup,
    /// The revision that was sent last.
    pub sent: i64,
}

impl Driver {
    /// Gives what is published to the shards. A full queue keeps answers here; of events the last batch is kept, and the
    /// shard reads those before it from the log.
    pub(super) fn deliver(&mut self, now: Duration) -> Result<(), GroupError> {
        let mut outputs = self.group.take_outputs();
        if outputs.removed {
            self.others.removed_at = Some(boottime());
        }
        self.send_messages(now, std::mem::take(&mut outputs.send));
        self.forward(std::mem::take(&mut outputs.forward));
        self.compare(std::mem::take(&mut outputs.sums), std::mem::take(&mut outputs.verdicts))?;
        self.send_images(std::mem::take(&mut outputs.images_wanted));
        if outputs.install.is_some() {
            let arrivals = self.others.arrivals.take().expect("only an image that was claimed is installed");
            let pages = arrivals.claimed().expect("it was claimed");
            images::install(&self.local.shared.config.data_dir, &pages).map_err(GroupError::PageFile)?;
            return Err(GroupError::Installed);
        }
        let revision = self.group.state().revision;
        let previous = std::mem::replace(&mut self.delivered, revision);
        let previous = outputs.skipped_to.map_or(previous, |skipped| skipped.max(previous));
        let moved = outputs.published;
        let events: EventBatch = std::mem::take(&mut outputs.events).into();
        if moved {
            self.stamps.published = boottime();
            if let Some(links) = &self.others.links
                && !outputs.answers.is_empty()
            {
                links.note_write(self.stamps.published.saturating_sub(self.stamps.proposed));
            }
        }
        let stamps = self.stamps;
        let mut local = FromGroup { answers: Vec::new(), previous, events: events.clone(), revision, stamps };
        if moved {
            for remote in &mut self.remotes {
                let backlog = &mut remote.backlog;
                backlog.previous = previous;
                backlog.events = events.clone();
                backlog.revision = revision;
                backlog.stamps = stamps;
            }
        }
        self.hand_out(&mut local, outputs);
        if moved || !local.answers.is_empty() {
            self.local.receive(local);
        }
        self.send_backlogs(revision);
        Ok(())
    }

    /// The answers, each to whoever waits for it.
    fn hand_out(&mut self, local: &mut FromGroup, outputs: Outputs) {
        for answer in outputs.answers {
            if answer.shard != STRANGER {
                self.told(local, answer.shard, answer.request_id, answer.outcome.map(Told::Reply));
            } else if let Some((from, caller)) = self.others.strangers.remove(&answer.request_id)
                && let Some(links) = &self.others.links
            {
                links.say(from, &Said::Changed(caller, answer.outcome.map(drop)));
            }
        }
        let (strangers, own): (Vec<_>, Vec<_>) =
            outputs.kept_alive.into_iter().partition(|kept| kept.shard == STRANGER);
        for kept in own {
            self.told(local, kept.shard, kept.request_id, kept.outcome.map(Told::KeptAlive));
        }
        for clock in outputs.clocks {
            self.told(local, clock.shard, clock.request_id, clock.outcome.map(Told::Clock));
        }
        self.answer_strangers(strangers.into_iter().map(|kept| (kept.request_id, kept.outcome.ok())).collect());
        for ready in outputs.reads {
            if ready.shard == STRANGER {
                self.proved(ready.request_id, &ready.outcome);
                continue;
            }
            self.told(local, ready.shard, ready.request_id, ready.outcome.map(|()| Told::Go));
        }
        for (shard, request_id, told) in std::mem::take(&mut self.others.early) {
            self.told(local, shard, request_id, told);
        }
    }

    /// What waits for shards on other threads goes, where their queues have room.
    fn send_backlogs(&mut self, revision: i64) {
        for remote in &mut self.remotes {
            let waits = remote.backlog.revision > remote.sent || !remote.backlog.answers.is_empty();
            if !waits {
                continue;
            }
            let batch = std::mem::replace(&mut remote.backlog, FromGroup::empty(revision));
            match remote.sender.try_send(batch) {
                Ok(()) => remote.sent = revision,
                Err(
                    GlommioError::Closed(ResourceType::Channel(back))
                    | GlommioError::WouldBlock(ResourceType::Channel(back)),
                ) => {
                    remote.backlog = back;
                }
                Err(_) => unreachable!("a channel gives back what it does not take"),
            }
        }
    }

    /// Answers with the next delivery what the group has no part in.
    pub(super) fn tell(&mut self, shard: u32, request_id: u64, told: Result<Told, Error>) {
        self.others.early.push((shard, request_id, told));
    }

    fn told(&mut self, local: &mut FromGroup, shard: u32, request_id: u64, told: Result<Told, Error>) {
        match shard {
            0 => local.answers.push((request_id, told)),
            NOBODY => {}
            other => {
                if let Some(remote) = self.remotes.get_mut(other as usize - 1) {
                    remote.backlog.answers.push((request_id, told));
                }
            }
        }
    }
}
