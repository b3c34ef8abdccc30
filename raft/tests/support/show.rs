//! How transcripts print what raft says.

use ringstone_raft::{Body, Configuration, Entry, EntryKind, Message, NodeId, Persist, Role, RoleChange, Snapshot};

fn ids(ids: &[NodeId]) -> String {
    ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}

/// `{voters}`, `{voters|outgoing}` while joint, `{voters +learners}`.
pub fn configuration(configuration: &Configuration) -> String {
    let mut text = format!("{{{}", ids(configuration.voters()));
    if configuration.is_joint() {
        text += &format!("|{}", ids(configuration.outgoing()));
    }
    if !configuration.learners().is_empty() {
        text += &format!(" +{}", ids(configuration.learners()));
    }
    text + "}"
}

/// `index/term payload`; `-` is the empty first entry of a term.
pub fn entry(entry: &Entry) -> String {
    let payload = match entry.kind {
        EntryKind::Configuration => configuration(&Configuration::decode(&entry.payload).expect("ours").0),
        EntryKind::Normal if entry.payload.is_empty() => "-".to_string(),
        EntryKind::Normal => String::from_utf8_lossy(&entry.payload).into_owned(),
    };
    format!("{}/{} {payload}", entry.index, entry.term)
}

pub fn entries(entries: &[Entry]) -> String {
    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
}

pub fn image(snapshot: &Snapshot) -> String {
    let metadata = &snapshot.metadata;
    format!("image {}/{} {}", metadata.index, metadata.term, configuration(&metadata.configuration))
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

/// The kind alone.
pub fn kind(body: &Body) -> &'static str {
    match body {
        Body::PreVoteRequest { .. } => "pre-vote?",
        Body::PreVoteResponse { .. } => "pre-vote",
        Body::VoteRequest { .. } => "vote?",
        Body::VoteResponse { .. } => "vote",
        Body::Append { .. } => "append",
        Body::AppendAccepted { .. } => "accepted",
        Body::AppendRejected { .. } => "rejected",
        Body::Commit { .. } => "commit",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatResponse { .. } => "heard",
        Body::NewerTerm => "newer-term",
        Body::ReadRequest { .. } => "read?",
        Body::ReadResponse { .. } => "read",
        Body::TimeoutNow => "timeout-now",
        Body::Snapshot(_) => "image",
    }
}

pub fn message(message: &Message) -> String {
    let kind = kind(&message.body);
    let rest = match &message.body {
        Body::PreVoteRequest { last_index, last_term } => format!(" log {last_index}/{last_term}"),
        Body::VoteRequest { last_index, last_term, forced } => {
            format!(" log {last_index}/{last_term}{}", if *forced { " forced" } else { "" })
        }
        Body::PreVoteResponse { granted } | Body::VoteResponse { granted } => format!(" {}", yes(*granted)),
        Body::Append { previous_index, previous_term, committed, entries } => {
            format!(" after {previous_index}/{previous_term} commit {committed} [{}]", self::entries(entries))
        }
        Body::AppendAccepted { matched } => format!(" {matched}"),
        Body::AppendRejected { rejected, hint_index, hint_term } => {
            format!(" {rejected} hint {hint_index}/{hint_term}")
        }
        Body::Commit { index, entry_term, committed } => format!(" {committed} of {index}/{entry_term}"),
        Body::Heartbeat { committed, round } => format!(" commit {committed} round {round}"),
        Body::HeartbeatResponse { round, kinds_known: 0 } => format!(" round {round}"),
        Body::HeartbeatResponse { round, kinds_known } => format!(" round {round} kinds {kinds_known}"),
        Body::ReadRequest { context, .. } => format!(" {context}"),
        Body::ReadResponse { context, index, .. } => format!(" {context} at {index}"),
        Body::Snapshot(snapshot) => format!(" {}", &image(snapshot)["image ".len()..]),
        Body::NewerTerm | Body::TimeoutNow => String::new(),
    };
    format!("t{} {kind}{rest}", message.term)
}

pub fn persist(persist: &Persist) -> String {
    let mut parts = Vec::new();
    if let Some(hard_state) = persist.hard_state {
        let vote = hard_state.vote.map_or("nobody".to_string(), |vote| vote.to_string());
        parts.push(format!("term {} vote {vote}", hard_state.term));
    }
    parts.extend(persist.snapshot.as_ref().map(image));
    parts.extend(persist.truncate_from.map(|index| format!("cut from {index}")));
    parts.extend(persist.entries.iter().map(entry));
    parts.join(", ")
}

pub fn became(id: NodeId, now: RoleChange) -> String {
    let what = match (now.role, now.leader) {
        (Role::Leader, _) => "leads".to_string(),
        (Role::Candidate, _) => "is candidate".to_string(),
        (Role::PreCandidate, _) => "asks who would vote".to_string(),
        (Role::Follower, Some(leader)) => format!("follows {leader}"),
        (Role::Follower, None) => "follows nobody".to_string(),
    };
    format!("{id} {what} in term {}", now.term)
}
