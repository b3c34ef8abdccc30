//! The Cluster service: who is a member.

use std::ops::{Bound, ControlFlow};

use ringstone_pager::api::{Direction, ReadTrees as _};
use ringstone_proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse};

use super::{Answered, Api, encode};
use crate::error::{Error, ReadFault};
use crate::group::read_member;
use crate::shard::stages::Trace;
use crate::trees::MEMBER;

impl Api {
    /// All members, ascending by id.
    pub(super) async fn members(&self) -> Result<Vec<Member>, Error> {
        self.shard
            .read(|pin, _| {
                let mut members = Vec::new();
                let all = (Bound::Unbounded, Bound::Unbounded);
                pin.visit(MEMBER, all, Direction::Forward, false, &mut |_, bytes| {
                    members.extend(read_member(bytes).map(|member| Member {
                        id: member.id,
                        name: member.name,
                        peer_urls: member.peer_urls,
                        client_urls: member.client_urls,
                        is_learner: member.is_learner,
                    }));
                    ControlFlow::Continue(())
                })
                .map_err(ReadFault::from)?;
                Ok(Some(members))
            })
            .await
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
