//! Is this request a gRPC call, and of which method? Order and texts of the refusals are grpc-go's.

use crate::context::parse_timeout;
use crate::framed::Encoding;
use crate::status::{Code, Status};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use ringstone_proto::Method;
use std::time::Duration;

/// What the headers of a call say.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) timeout: Option<Duration>,
    pub(super) encoding: Encoding,
    pub(super) content_type: HeaderValue,
}

/// The whole answer to a request that is no call.
pub(super) struct Refusal {
    pub(super) http_status: StatusCode,
    pub(super) content_type: HeaderValue,
    pub(super) status: Status,
}

const GRPC: &str = "application/grpc";

pub(super) fn read_head(parts: &Parts) -> Result<Head, Refusal> {
    let content_type = answered_content_type(&parts.headers).map_err(|shown| Refusal {
        http_status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        content_type: HeaderValue::from_static(GRPC),
        status: Status::new(Code::InvalidArgument, format!("invalid gRPC request content-type {shown:?}")),
    })?;
    let refuse =
        |http_status: StatusCode, status: Status| Refusal { http_status, content_type: content_type.clone(), status };
    let timeout = match parts.headers.get("grpc-timeout") {
        Some(value) => Some(parse_timeout(value.as_bytes()).map_err(|status| refuse(StatusCode::BAD_REQUEST, status))?),
        None => None,
    };
    check_binary(&parts.headers).map_err(|status| refuse(StatusCode::BAD_REQUEST, status))?;
    if parts.method != http::Method::POST {
        let text = format!("Received a HEADERS frame with :method {:?} which should be POST", parts.method.as_str());
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, Status::new(Code::Internal, text)));
    }
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let method = Method::from_path(path)
        .ok_or_else(|| refuse(StatusCode::OK, Status::new(Code::Unimplemented, no_method(path))))?;
    let encoding = encoding(&parts.headers).map_err(|status| refuse(StatusCode::OK, status))?;
    Ok(Head { method, timeout, encoding, content_type })
}

/// `application/grpc` alone or with `+` or `;` and a subtype, which the answer repeats behind a `+`.
fn answered_content_type(headers: &HeaderMap) -> Result<HeaderValue, String> {
    let Some(value) = headers.get(http::header::CONTENT_TYPE) else { return Err(String::new()) };
    let bytes = value.as_bytes();
    if bytes == GRPC.as_bytes() {
        return Ok(HeaderValue::from_static(GRPC));
    }
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let lower = bytes.to_ascii_lowercase();
    match lower.strip_prefix(GRPC.as_bytes()) {
        Some([]) => Ok(HeaderValue::from_static(GRPC)),
        Some([b'+' | b';', subtype @ ..]) => {
            let answered = [GRPC.as_bytes(), if subtype.is_empty() { b"" } else { b"+" }, subtype].concat();
            HeaderValue::from_bytes(&answered).map_err(|_| shown())
        }
        _ => Err(shown()),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Status> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(Encoding::Identity),
        Some(b"gzip") => Ok(Encoding::Gzip),
        Some(other) => {
            let shown = String::from_utf8_lossy(other);
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {shown:?}");
            Err(Status::new(Code::Unimplemented, text))
        }
    }
}

/// Headers whose name ends in `-bin` hold base64, with or without padding, several joined by commas.
fn check_binary(headers: &HeaderMap) -> Result<(), Status> {
    for (name, value) in headers {
        if name.as_str().ends_with("-bin") && !value.as_bytes().split(|byte| *byte == b',').all(is_base64) {
            let text = format!(
                "malformed binary metadata {:?} in header {:?}: illegal base64 data",
                String::from_utf8_lossy(value.as_bytes()),
                name.as_str()
            );
            return Err(Status::new(Code::Internal, text));
        }
    }
    Ok(())
}

fn is_base64(value: &[u8]) -> bool {
    let digits = value.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let padding = value.len() - digits;
    let whole = if padding == 0 { digits % 4 != 1 } else { value.len().is_multiple_of(4) && padding <= 2 };
    whole && value[..digits].iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

fn no_method(path: &str) -> String {
    match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if Method::SERVICES.contains(&service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_with_and_without_padding() {
        for good in ["", "YQ", "YQ==", "YWI", "YWI=", "YWJj", "+/+/"] {
            assert!(is_base64(good.as_bytes()), "{good}");
        }
        for bad in ["Y", "Y===", "YQ=", "YWJj=", "YWJjZA=b", "Y Q=", "----", "YWJj====", "=", "===="] {
            assert!(!is_base64(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn unknown_paths_have_go_s_texts() {
        assert_eq!(no_method("/etcdserverpb.KV/Range?x=1"), "unknown method Range?x=1 for service etcdserverpb.KV");
        assert_eq!(no_method("/etcdserverpb.KV/range"), "unknown method range for service etcdserverpb.KV");
        assert_eq!(no_method("/a/b/c"), "unknown service a/b");
        assert_eq!(no_method("/health"), "malformed method name: \"/health\"");
        assert_eq!(no_method(""), "malformed method name: \"\"");
    }
}
