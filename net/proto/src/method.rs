/// How many messages flow in each direction of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One request, one response.
    Unary,
    /// Many requests, one response.
    ClientStream,
    /// One request, many responses.
    ServerStream,
    /// Many requests, many responses.
    BidiStream,
}

impl MethodKind {
    /// The value of the `grpc_type` label.
    pub const fn label(self) -> &'static str {
        match self {
            MethodKind::Unary => "unary",
            MethodKind::ClientStream => "client_stream",
            MethodKind::ServerStream => "server_stream",
            MethodKind::BidiStream => "bidi_stream",
        }
    }
}

struct Facts {
    path: &'static str,
    service: &'static str,
    name: &'static str,
    kind: MethodKind,
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

impl Method {
    /// The request path, `/etcdserverpb.KV/Range`.
    pub const fn path(self) -> &'static str {
        Self::FACTS[self as usize].path
    }

    /// The full name of the service, `etcdserverpb.KV`.
    pub const fn service(self) -> &'static str {
        Self::FACTS[self as usize].service
    }

    /// The name within the service, `Range`.
    pub const fn name(self) -> &'static str {
        Self::FACTS[self as usize].name
    }

    /// Unary or which kind of stream.
    pub const fn kind(self) -> MethodKind {
        Self::FACTS[self as usize].kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_leads_to_its_method_and_no_other_spelling_does() {
        for (position, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, position);
            assert_eq!(method.path(), format!("/{}/{}", method.service(), method.name()));
            assert_eq!(Method::from_path(method.path()), Some(method));
            assert!(Method::SERVICES.contains(&method.service()));
            assert_eq!(Method::from_path(&method.path()[1..]), None);
            assert_eq!(Method::from_path(&format!("{}?x=1", method.path())), None);
            assert_eq!(Method::from_path(&method.path().to_lowercase()), None);
        }
    }

    #[test]
    fn kinds_are_those_of_the_api() {
        assert_eq!(Method::KvRange.path(), "/etcdserverpb.KV/Range");
        assert_eq!(Method::KvRangeStream.kind(), MethodKind::ServerStream);
        assert_eq!(Method::Watch.kind(), MethodKind::BidiStream);
        assert_eq!(Method::LeaseKeepAlive.kind(), MethodKind::BidiStream);
        assert_eq!(Method::MaintenanceSnapshot.kind(), MethodKind::ServerStream);
        assert_eq!(Method::ElectionObserve.kind(), MethodKind::ServerStream);
        assert_eq!(Method::HealthWatch.kind(), MethodKind::ServerStream);
        let streams = Method::ALL.into_iter().filter(|method| method.kind() != MethodKind::Unary).count();
        assert_eq!(streams, 6);
        assert_eq!(Method::COUNT, 6 + 1 + 5 + 5 + 8 + 17 + 2 + 5 + 3);
    }
}
