//! The TCP side of the peer port: two pages for people and for [`super::Finding`], by the server that clients have.

use super::peers::Peers;
use crate::admission::Entry;
use crate::context::CallContext;
use crate::framed::Framed;
use crate::glommio_io::{GlommioRuntime, GlommioStream};
use crate::handler::{Handler, HttpRequest, HttpResponse};
use crate::limits::Limits;
use crate::server::{RequestStream, ResponseSink, Server, serve_connection};
use crate::status::{Code, Status};
use bytes::Bytes;
use futures_util::future::{Either, select};
use glommio::net::TcpListener;
use ringstone_proto::Method;
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A page of the peer port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerHttp {
    /// `/version`: etcd's JSON of the versions of server and cluster.
    Version,
    /// `/members`: etcd's JSON array of the members.
    Members,
}

struct Pages<F>(F);

impl<F: Fn(PeerHttp) -> HttpResponse + 'static> Handler for Pages<F> {
    type Notes = ();

    fn admit(&self, _: Method, _: Entry, _: &CallContext) -> Result<(), Status> {
        Err(Status::new(Code::Unimplemented, "this is the peer port, calls go to the client port"))
    }

    async fn unary(&self, _: Method, _: &CallContext, _: Bytes, (): &()) -> Result<Framed, Status> {
        Err(Status::new(Code::Unimplemented, "this is the peer port"))
    }

    async fn stream(&self, _: Method, _: &CallContext, _: RequestStream, _: ResponseSink) -> Result<(), Status> {
        Err(Status::new(Code::Unimplemented, "this is the peer port"))
    }

    async fn http(&self, request: HttpRequest) -> HttpResponse {
        let page = match request.path() {
            "/version" => PeerHttp::Version,
            "/members" => PeerHttp::Members,
            _ => return HttpResponse::text(404, "404 page not found\n"),
        };
        if request.method == http::Method::GET {
            (self.0)(page)
        } else {
            let mut response = HttpResponse::text(405, "Method Not Allowed\n");
            response.headers.push((http::header::ALLOW, http::HeaderValue::from_static("GET")));
            response
        }
    }
}

/// Bounds for a port on which nobody has much to say.
fn limits() -> Limits {
    Limits {
        streams_max: 1,
        http1_head_bytes_max: 8 << 10,
        http1_body_bytes_max: 4 << 10,
        http1_timeout: Duration::from_secs(30),
        handshake_timeout: Duration::from_secs(5),
        shutdown_grace: Duration::ZERO,
        ..Limits::default()
    }
}

impl Peers {
    /// Answers `/version` and `/members` over TCP until the transport is shut down. `listener` is on the address that QUIC
    /// has on UDP; `clock` is the process's.
    pub fn serve_http(
        &self,
        listener: TcpListener,
        clock: fn() -> Duration,
        answer: impl Fn(PeerHttp) -> HttpResponse + 'static,
    ) {
        let shared = Rc::clone(self.shared());
        let server = Rc::new(Server::new(Rc::new(Pages(answer)), GlommioRuntime::new(clock), limits()));
        let open = Rc::new(Cell::new(0));
        glommio::spawn_local(async move {
            loop {
                let closing = pin!(shared.closing.wait(|| shared.closed.get().then_some(())));
                let accepted = pin!(listener.accept());
                let stream = match select(accepted, closing).await {
                    Either::Left((Ok(stream), _)) => stream,
                    Either::Left((Err(_), _)) => {
                        // No descriptors, most likely: it passes.
                        glommio::timer::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                    Either::Right(_) => return,
                };
                if open.get() >= shared.limits.tcp_connections_max {
                    continue;
                }
                let Ok((stream, peer)) = GlommioStream::tcp(stream, None) else { continue };
                open.set(open.get() + 1);
                let (open, server, shared) = (Rc::clone(&open), Rc::clone(&server), Rc::clone(&shared));
                glommio::spawn_local(async move {
                    let closing = shared.closing.wait(|| shared.closed.get().then_some(()));
                    let _ = serve_connection(stream, peer, &server, closing).await;
                    open.set(open.get() - 1);
                })
                .detach();
            }
        })
        .detach();
    }
}
