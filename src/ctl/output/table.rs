//! `-w table`: boxes, as Go's tablewriter draws them: the header in the middle, everything else to the right.

use ringstone_proto::etcdserverpb::{HashKvResponse, MemberListResponse, StatusResponse};

use super::{Answer, Health, Page, Unsupported, human_bytes};

pub fn write(answer: &Answer, page: &mut Page) -> Result<(), Unsupported> {
    let table = match answer {
        Answer::Members(response) => Table::members(response),
        Answer::Health(endpoints) => Table::health(endpoints),
        Answer::Status(endpoints) => Table::status(endpoints),
        Answer::HashKv(endpoints) => Table::hash_kv(endpoints),
        _ => return Err(Unsupported),
    };
    table.lines().iter().for_each(|line| page.line(line));
    Ok(())
}

/// Rows under a header. `-w simple` prints the same rows.
pub struct Table {
    pub header: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

const STATUS: &[&str] = &[
    "ENDPOINT",
    "ID",
    "VERSION",
    "STORAGE VERSION",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "QUOTA",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
    "DOWNGRADE TARGET VERSION",
    "DOWNGRADE ENABLED",
];

impl Table {
    pub fn members(response: &MemberListResponse) -> Table {
        let row = |member: &ringstone_proto::etcdserverpb::Member| {
            vec![
                format!("{:x}", member.id),
                if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
                member.name.clone(),
                member.peer_urls.join(","),
                member.client_urls.join(","),
                member.is_learner.to_string(),
            ]
        };
        Table {
            header: &["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"],
            rows: response.members.iter().map(row).collect(),
        }
    }

    pub fn health(endpoints: &[Health]) -> Table {
        let row = |health: &Health| {
            let Health { endpoint, healthy, took, error } = health;
            vec![endpoint.clone(), healthy.to_string(), took.clone(), error.clone()]
        };
        Table { header: &["ENDPOINT", "HEALTH", "TOOK", "ERROR"], rows: endpoints.iter().map(row).collect() }
    }

    pub fn status(endpoints: &[(String, StatusResponse)]) -> Table {
        let rows = endpoints.iter().map(|(endpoint, status)| status_row(endpoint, status)).collect();
        Table { header: STATUS, rows }
    }

    pub fn hash_kv(endpoints: &[(String, HashKvResponse)]) -> Table {
        let row = |(endpoint, response): &(String, HashKvResponse)| {
            vec![endpoint.clone(), response.hash.to_string(), response.hash_revision.to_string()]
        };
        Table { header: &["ENDPOINT", "HASH", "HASH REVISION"], rows: endpoints.iter().map(row).collect() }
    }

    pub fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].trim().chars().count());
            cells.chain([self.header[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let rule = |left: &str, middle: &str, right: &str| {
            let parts: Vec<_> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
            format!("{left}{}{right}", parts.join(middle))
        };
        let line = |cells: Vec<String>| format!("│ {} │", cells.join(" │ "));
        let header = self.header.iter().zip(&widths).map(|(name, &width)| format!("{name:^width$}")).collect();
        let mut lines = vec![rule("┌", "┬", "┐"), line(header)];
        if !self.rows.is_empty() {
            lines.push(rule("├", "┼", "┤"));
        }
        for row in &self.rows {
            lines
                .push(line(row.iter().zip(&widths).map(|(cell, &width)| format!("{:>width$}", cell.trim())).collect()));
        }
        lines.push(rule("└", "┴", "┘"));
        lines
    }
}

fn status_row(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let member_id = status.header.as_ref().map_or(0, |header| header.member_id);
    let in_use_percent = status.db_size_in_use.saturating_mul(100).checked_div(status.db_size).unwrap_or(100);
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    vec![
        endpoint.to_owned(),
        format!("{member_id:x}"),
        status.version.clone(),
        status.storage_version.clone(),
        human_bytes(status.db_size),
        human_bytes(status.db_size_in_use),
        format!("{}%", 100 - in_use_percent),
        human_bytes(status.db_size_quota),
        (status.leader == member_id).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcdctl 3.7.3 printed it.
    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let health = |endpoint: &str, healthy, took: &str, error: &str| Health {
            endpoint: endpoint.to_owned(),
            healthy,
            took: took.to_owned(),
            error: error.to_owned(),
        };
        let mut endpoints = vec![
            health("127.0.0.1:44519", true, "3.544302ms", ""),
            health("127.0.0.1:1", false, "1.000496386s", "context deadline exceeded"),
        ];
        let expected = "\
┌─────────────────┬────────┬──────────────┬───────────────────────────┐
│    ENDPOINT     │ HEALTH │     TOOK     │           ERROR           │
├─────────────────┼────────┼──────────────┼───────────────────────────┤
│ 127.0.0.1:44519 │   true │   3.544302ms │                           │
│     127.0.0.1:1 │  false │ 1.000496386s │ context deadline exceeded │
└─────────────────┴────────┴──────────────┴───────────────────────────┘";
        assert_eq!(Table::health(&endpoints).lines().join("\n"), expected);
        endpoints.clear();
        let empty = "\
┌──────────┬────────┬──────┬───────┐
│ ENDPOINT │ HEALTH │ TOOK │ ERROR │
└──────────┴────────┴──────┴───────┘";
        assert_eq!(Table::health(&endpoints).lines().join("\n"), empty);
    }
}
