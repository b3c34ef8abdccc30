//! Connections that others begin: bounded in number and time until their hello is good.

use super::close::CloseCode;
use super::dial::{HelloEnd, read_hello};
use super::hello::{Hello, Refusal};
use super::link;
use super::member::Member;
use super::peers::Shared;
use super::registry::{Choice, choose};
use super::socket::within;
use super::tls_names::names_address;
use quinn::{Connection, Incoming};
use rustls::pki_types::CertificateDer;
use std::rc::Rc;

/// Takes connections until the endpoint is closed.
pub(super) async fn run(shared: Rc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        if shared.closed.get() {
            return;
        }
        let pending = shared.handshakes.get();
        if pending >= shared.limits.handshakes_max {
            // Unanswered: a member's packet comes again, a forged one costs nothing more.
            incoming.ignore();
        } else if pending >= shared.limits.handshakes_before_retry && incoming.may_retry() {
            // It may fail for addresses that have proved themselves: those have no right to another one.
            let _ = incoming.retry();
        } else {
            shared.handshakes.set(pending + 1);
            let pending = Pending(Rc::clone(&shared));
            glommio::spawn_local(async move { handshake(&pending.0, incoming).await }).detach();
        }
    }
}

struct Pending(Rc<Shared>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

async fn handshake(shared: &Rc<Shared>, incoming: Incoming) {
    let timeout = shared.limits.handshake_timeout;
    let address = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let connection = match within(timeout, connecting).await {
        Some(Ok(connection)) => connection,
        // The dialler has the certificate's fault in its own words; here it is noted for whoever looks.
        Some(Err(error)) => return tracing::debug!(%address, %error, "handshake of a peer failed"),
        None => return,
    };
    if shared.checks_addresses && !is_where_it_says(shared, &connection, timeout).await {
        return;
    }
    if within(timeout, greet(shared, &connection)).await.is_none() {
        let text = format!("member {:x} got no hello within {} s", shared.identity.member_id, timeout.as_secs());
        refuse(shared, &connection, Refusal { code: CloseCode::HandshakeTimeout, text });
    }
}

/// As etcd does, unless `--peer-skip-client-san-verification` is set.
async fn is_where_it_says(shared: &Shared, connection: &Connection, timeout: std::time::Duration) -> bool {
    let shown = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(certificate) = shown.and_then(|chain| chain.into_iter().next()) else { return true };
    let address = connection.remote_address().ip();
    // The system's resolver blocks.
    let looked = glommio::executor().spawn_blocking(move || names_address(&certificate, address));
    let found = within(timeout, looked).await;
    if found != Some(true) {
        let text = format!(
            "member {:x} does not take a certificate whose addresses and hosts are not {address}, where it is dialled from: add \
             the address to the certificate, or set --peer-skip-client-san-verification",
            shared.identity.member_id
        );
        refuse(shared, connection, Refusal { code: CloseCode::Address, text });
    }
    found == Some(true)
}

async fn greet(shared: &Rc<Shared>, connection: &Connection) {
    let Ok((control_out, mut control_in)) = connection.accept_bi().await else { return };
    let hello = match read_hello(&mut control_in).await {
        Ok(hello) => hello,
        Err(HelloEnd::Wire(error)) => {
            let text = format!(
                "member {:x} expects Ringstone's peer protocol on this port: {error}; something else dials it",
                shared.identity.member_id
            );
            return refuse(shared, connection, Refusal { code: error.close_code(), text });
        }
        Err(HelloEnd::Stream) => return,
    };
    // From here to the installed link nothing is awaited: two connections of one member are decided one after the other.
    let (member, agreed) = match known(shared, &hello) {
        Ok(known) => known,
        Err(refusal) => return refuse(shared, connection, refusal),
    };
    match choose(shared.identity.member_id, member.latest.get(), member.live(), &hello, false) {
        Ok(Choice::Take(why)) => {
            let answer = shared.says().hello(hello.from, shared.next_sequence()).encode();
            let terms = link::Terms { dialled: false, snapshots: agreed, replaces: why, first: Some(answer) };
            link::install(shared, &member, connection.clone(), &hello, terms, (control_out, control_in));
        }
        Ok(Choice::Keep) => {
            let (ours, theirs) = (shared.identity.member_id, member.id);
            let text = format!("member {ours:x} and member {theirs:x} keep their other connection");
            link::close(connection, CloseCode::Tie, &text);
        }
        Err(refusal) => refuse(shared, connection, refusal),
    }
}

/// The member of a hello, and whether snapshots can be exchanged with it.
fn known(shared: &Shared, hello: &Hello) -> Result<(Rc<Member>, bool), Refusal> {
    let agreed = shared.identity.check(hello, None)?;
    let (ours, theirs) = (shared.identity.member_id, hello.from);
    if shared.removed.borrow().contains(&theirs) {
        let text = format!(
            "member {theirs:x} has been removed from the cluster of member {ours:x}: stop it and delete its data folder; to \
             come back it must be added as a new member"
        );
        return Err(Refusal { code: CloseCode::RemovedMember, text });
    }
    let member = shared.members.borrow().get(&theirs).cloned();
    let member = member.ok_or_else(|| {
        let text = format!(
            "member {ours:x} does not know member {theirs:x} as a member of cluster {:x}: if it has just been added this \
             mends itself, else add it with `member add`",
            hello.cluster_id
        );
        Refusal { code: CloseCode::UnknownMember, text }
    })?;
    Ok((member, agreed.snapshots))
}

/// Closes with a text for the other side, and logs it: a new one at once, one that comes again now and then.
pub(super) fn refuse(shared: &Shared, connection: &Connection, refusal: Refusal) {
    link::close(connection, refusal.code, &refusal.text);
    shared.refusals.set(shared.refusals.get() + 1);
    if shared.complaints.borrow_mut().is_due(shared.epoch.elapsed(), &refusal.text) {
        tracing::warn!(address = %connection.remote_address(), reason = %refusal, "peer refused");
    }
    shared.last_refusal.replace(Some(refusal));
}
