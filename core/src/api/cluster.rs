//! The Cluster service: who is a member.

use ringstone_net::peer::PeerAddress;
use ringstone_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};

use super::{Answered, Api, encode};
use crate::command::{self, Command};
use crate::error::{Error, ReadFault};
use crate::group::{MemberChange, read_members};
use crate::identity::added_member_id;
use crate::shard::stages::Trace;
use crate::shard::wall_ms;

impl Api {
    /// All members, ascending by id.
    pub(super) async fn members(&self) -> Result<Vec<Member>, Error> {
        let known = self.shard.read(|pin, _| read_members(pin).map(Some).map_err(ReadFault::from)).await?;
        let member = |member: command::Member| Member {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        };
        Ok(known.into_iter().map(member).collect())
    }

    /// Once the change is seen here, too: the members as they are then.
    async fn members_after(&self, change: MemberChange) -> Result<Vec<Member>, Error> {
        self.shard.change_members(change).await?;
        // The leader has applied it. Its new quorum may not have begun yet.
        if !self.shard.shared.is_leader() {
            self.shard.linearizable().await?;
        }
        self.members().await
    }

    pub(super) async fn member_add(&self, request: MemberAddRequest, trace: &Trace) -> Answered {
        check_urls(&request.peer_urls)?;
        let id = added_member_id(&request.peer_urls, &self.shard.shared.config.cluster_token, wall_ms() / 1000);
        let member = command::Member {
            id,
            name: String::new(),
            peer_urls: request.peer_urls,
            client_urls: Vec::new(),
            is_learner: request.is_learner,
        };
        let members = self.members_after(MemberChange::Add(member)).await?;
        let member = members.iter().find(|member| member.id == id).cloned();
        encode(trace, &MemberAddResponse { header: Some(self.header(0)), member, members })
    }

    pub(super) async fn member_remove(&self, request: MemberRemoveRequest, trace: &Trace) -> Answered {
        let members = self.members_after(MemberChange::Remove(request.id)).await?;
        encode(trace, &MemberRemoveResponse { header: Some(self.header(0)), members })
    }

    pub(super) async fn member_promote(&self, request: MemberPromoteRequest, trace: &Trace) -> Answered {
        let members = self.members_after(MemberChange::Promote(request.id)).await?;
        encode(trace, &MemberPromoteResponse { header: Some(self.header(0)), members })
    }

    pub(super) async fn member_update(&self, request: MemberUpdateRequest, trace: &Trace) -> Answered {
        check_urls(&request.peer_urls)?;
        let command = Command::MemberUpdate { id: request.id, peer_urls: request.peer_urls };
        self.shard.propose(&command, trace).await?;
        let members = self.members().await?;
        encode(trace, &MemberUpdateResponse { header: Some(self.header(0)), members })
    }

    pub(super) async fn member_list(&self, request: MemberListRequest, trace: &Trace) -> Answered {
        if request.linearizable {
            self.shard.linearizable().await?;
        }
        let members = self.members().await?;
        // etcd's Cluster answers have no revision in their header.
        encode(trace, &MemberListResponse { header: Some(self.header(0)), members })
    }
}

fn check_urls(urls: &[String]) -> Result<(), Error> {
    let good = |url: &String| PeerAddress::parse(url).is_ok();
    if !urls.is_empty() && urls.iter().all(good) { Ok(()) } else { Err(Error::MemberBadUrls) }
}
