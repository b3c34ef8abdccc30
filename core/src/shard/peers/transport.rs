//! What the transport between members is made of: who this process says that it is, whom it dials, what its port answers.

use std::rc::Rc;

use http::{HeaderName, HeaderValue};
use ringstone_net::HttpResponse;
use ringstone_net::nap::Nap;
use ringstone_net::peer::hello::{Features, Identity};
use ringstone_net::peer::registry::Latest;
use ringstone_net::peer::tls::PeerTls;
use ringstone_net::peer::{MemberSpec, Membership, PeerAddress, PeerConfig, PeerError, PeerHttp, PeerLimits, Peers};

use crate::command::Member;
use crate::config::{API_VERSION, CLUSTER_VERSION};
use crate::group::features_of_kinds;
use crate::identity::known::Known;
use crate::join::{APPLIED_HEADER, CLUSTER_ID_HEADER, KINDS_HEADER, Listed};
use crate::said;
use crate::shard::random_bytes;
use crate::shared::Shared;

/// Opens the peer port and begins to dial.
///
/// # Errors
/// [`PeerError`].
pub(in crate::shard) async fn transport(
    shared: &Shared,
    incarnation: u64,
    members: &[Member],
    known: &Known,
    kinds: u16,
    nap: Option<Rc<Nap>>,
) -> Result<Peers, PeerError> {
    let config = &shared.config;
    let tls = PeerTls::load(&config.peer_tls)?;
    if let Some(warning) = tls.trust().warning() {
        tracing::warn!("{warning}");
    }
    let listen = *config.listen_peer.first().expect("the flags name an address");
    let identity = Identity {
        cluster_id: shared.identity.cluster_id,
        member_id: shared.identity.member_id,
        incarnation,
        process: random(),
        features: features(kinds),
        known_features: features(config.entry_kinds),
    };
    let limits = limits(config.max_request_bytes);
    let membership = membership(members, known)?;
    Peers::new(PeerConfig { identity, listen, tls, limits, random: Box::new(random), nap }, &membership).await
}

/// What this member's hellos say of the entries in its log.
pub(super) fn features(kinds: u16) -> Features {
    Features { refuse: features_of_kinds(kinds), ..Features::default() }
}

fn random() -> u64 {
    u64::from_le_bytes(random_bytes())
}

fn limits(max_request_bytes: usize) -> PeerLimits {
    let usual = PeerLimits::default();
    let log = u32::try_from(said::limits(max_request_bytes).message_bytes_max).unwrap_or(u32::MAX);
    PeerLimits { log_frame_bytes_max: usual.log_frame_bytes_max.max(log), ..usual }
}

/// Whom the transport is to reach, and what is remembered of them.
///
/// # Errors
/// [`PeerError`]: a URL that is none.
pub(super) fn membership(members: &[Member], known: &Known) -> Result<Membership, PeerError> {
    let latest = |id: u64| {
        let known = known.members().get(&id).filter(|known| known.incarnation > 0)?;
        Some(Latest { incarnation: known.incarnation, process: Some(known.process) })
    };
    let spec = |member: &Member| {
        let addresses = member.peer_urls.iter().map(|url| PeerAddress::parse(url)).collect::<Result<Vec<_>, _>>()?;
        Ok(MemberSpec { id: member.id, addresses, latest: latest(member.id) })
    };
    Ok(Membership { members: members.iter().map(spec).collect::<Result<_, PeerError>>()?, removed: Vec::new() })
}

/// What the peer port says over TCP. `since`: the index at which the members became these.
pub(super) fn answer(cluster_id: u64, kinds: u16, members: &[Member], since: u64, page: PeerHttp) -> HttpResponse {
    let json = match page {
        PeerHttp::Version => serde_json::json!({
            "etcdserver": API_VERSION, "etcdcluster": CLUSTER_VERSION, "storage": CLUSTER_VERSION,
        }),
        PeerHttp::Members => serde_json::json!(members.iter().cloned().map(Listed::from).collect::<Vec<_>>()),
    };
    let mut response = HttpResponse::text(200, json.to_string());
    response.headers[0].1 = HeaderValue::from_static("application/json");
    let cluster_id = HeaderValue::from_str(&format!("{cluster_id:x}")).expect("hexadecimal digits");
    response.headers.push((HeaderName::from_static(CLUSTER_ID_HEADER), cluster_id));
    response.headers.push((HeaderName::from_static(KINDS_HEADER), HeaderValue::from(kinds)));
    response.headers.push((HeaderName::from_static(APPLIED_HEADER), HeaderValue::from(since)));
    response
}
