//! What etcd answers to odd calls, byte by byte (fact sheet, 11.7).

use crate::common::*;
use http::Request;
use prost::Message;
use ringstone_net::Limits;
use ringstone_proto::etcdserverpb::RangeResponse;
use std::io::Write;

async fn client() -> (Harness, RawClient) {
    let (harness, stream) = Harness::start(Limits::default());
    (harness, RawClient::connect(stream).await)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes all");
    encoder.finish().expect("a Vec takes all")
}

fn response_of(answer: &RawAnswer) -> RangeResponse {
    assert_eq!(answer.status(), (0, String::new()), "{answer:?}");
    assert_eq!(answer.data[0], 0, "not compressed");
    assert_eq!(answer.data[1..5], (answer.data.len() as u32 - 5).to_be_bytes());
    RangeResponse::decode(&answer.data[5..]).expect("a message")
}

#[test]
fn a_plain_call() {
    run(async {
        let (_harness, mut client) = client().await;
        let answer = client.call(request(RANGE, &[GRPC, ("te", "trailers")]), &[&frame(0, &range("key"))]).await;
        assert_eq!((answer.http_status, answer.header("content-type")), (200, Some("application/grpc")));
        assert!(!answer.headers.contains_key("grpc-status"), "the status is in the trailers");
        assert_eq!(response_of(&answer).count, 3);
    });
}

#[test]
fn a_message_in_single_bytes() {
    run(async {
        let (_harness, mut client) = client().await;
        let message = frame(0, &range("seven b"));
        let parts: Vec<&[u8]> = message.chunks(1).collect();
        assert_eq!(response_of(&client.call(request(RANGE, &[GRPC]), &parts).await).count, 7);
    });
}

#[test]
fn content_types() {
    run(async {
        let (_harness, mut client) = client().await;
        for (sent, answered) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+json", "application/grpc+json"),
            ("application/grpc+proto", "application/grpc+proto"),
            ("application/grpc;charset=utf-8", "application/grpc+charset=utf-8"),
        ] {
            let answer = client.call(request(RANGE, &[("content-type", sent)]), &[&frame(0, &range("k"))]).await;
            assert_eq!(answer.header("content-type"), Some(answered));
            assert_eq!(response_of(&answer).count, 1);
        }
        for sent in [Some("application/grpc-web"), Some("text/plain"), Some("application/json"), None] {
            let headers: Vec<(&str, &str)> = sent.map(|sent| ("content-type", sent)).into_iter().collect();
            let answer = client.call(request(RANGE, &headers), &[&frame(0, &range("k"))]).await;
            assert_eq!(answer.http_status, 415);
            assert!(answer.trailers_only());
            let text = format!("invalid gRPC request content-type {:?}", sent.unwrap_or_default());
            assert_eq!(answer.status(), (3, text));
        }
    });
}

#[test]
fn http_methods_other_than_post() {
    run(async {
        let (_harness, mut client) = client().await;
        for method in ["GET", "PUT"] {
            let request = Request::builder().method(method).uri(format!("http://localhost{RANGE}"));
            let request = request.header(GRPC.0, GRPC.1).body(()).expect("a request");
            let answer = client.call(request, &[]).await;
            assert_eq!(answer.http_status, 405);
            let text = format!("Received a HEADERS frame with :method \"{method}\" which should be POST");
            assert_eq!(answer.status(), (13, text));
        }
    });
}

#[test]
fn compression() {
    run(async {
        let (_harness, mut client) = client().await;
        let gzipped = [GRPC, ("grpc-encoding", "gzip")];
        let answer = client.call(request(RANGE, &gzipped), &[&frame(1, &gzip(&range("zipped")))]).await;
        assert_eq!(response_of(&answer).count, 6);
        // The flag decides, not the header.
        let answer = client.call(request(RANGE, &gzipped), &[&frame(0, &range("plain"))]).await;
        assert_eq!(response_of(&answer).count, 5);

        let snappy = [GRPC, ("grpc-encoding", "snappy")];
        let answer = client.call(request(RANGE, &snappy), &[&frame(1, b"x")]).await;
        assert_eq!(answer.http_status, 200);
        let text = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
        assert_eq!(answer.status(), (12, text.to_owned()));

        for headers in [&[GRPC][..], &[GRPC, ("grpc-encoding", "identity")]] {
            let answer = client.call(request(RANGE, headers), &[&frame(1, &gzip(&range("k")))]).await;
            let text = "grpc: compressed flag set with identity or empty encoding";
            assert_eq!(answer.status(), (13, text.to_owned()));
        }
        let answer = client.call(request(RANGE, &[GRPC]), &[&frame(2, &range("k"))]).await;
        assert_eq!(answer.status(), (13, "grpc: received unexpected payload format 2".to_owned()));

        let answer = client.call(request(RANGE, &gzipped), &[&frame(1, b"not gzip at all")]).await;
        let (code, text) = answer.status();
        assert_eq!(code, 13);
        assert!(text.starts_with("grpc: failed to decompress the received message"), "{text}");
    });
}

#[test]
fn a_gzip_bomb_costs_no_more_than_a_message() {
    run(async {
        let (_harness, mut client) = client().await;
        let bomb = gzip(&vec![0; 100 << 20]);
        assert!(bomb.len() < 1 << 20);
        let parts: Vec<Vec<u8>> = frame(1, &bomb).chunks(16_384).map(<[u8]>::to_vec).collect();
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let answer = client.call(request(RANGE, &[GRPC, ("grpc-encoding", "gzip")]), &parts).await;
        let text = "grpc: received message after decompression larger than max 2097152";
        assert_eq!(answer.status(), (8, text.to_owned()));
    });
}

#[test]
fn malformed_headers() {
    run(async {
        let (_harness, mut client) = client().await;
        let answer = client.call(request(RANGE, &[GRPC, ("grpc-timeout", "5x")]), &[&frame(0, &range("k"))]).await;
        assert_eq!(answer.http_status, 400);
        let text = "malformed grpc-timeout: transport: timeout unit is not recognized: \"5x\"";
        assert_eq!(answer.status(), (13, text.to_owned()));

        let answer = client.call(request(RANGE, &[GRPC, ("trace-bin", "$$")]), &[&frame(0, &range("k"))]).await;
        assert_eq!(answer.http_status, 400);
        let (code, text) = answer.status();
        assert_eq!(code, 13);
        assert!(text.starts_with("malformed binary metadata \"$$\" in header \"trace-bin\""), "{text}");
        let answer = client.call(request(RANGE, &[GRPC, ("trace-bin", "YWJj")]), &[&frame(0, &range("k"))]).await;
        assert_eq!(response_of(&answer).count, 1);
    });
}

#[test]
fn sizes() {
    run(async {
        let (_harness, mut client) = client().await;
        let mut prefix = vec![0];
        prefix.extend(2_097_153u32.to_be_bytes());
        let answer = client.call(request(RANGE, &[GRPC]), &[&prefix]).await;
        let text = "grpc: received message larger than max (2097153 vs. 2097152)";
        assert_eq!(answer.status(), (8, text.to_owned()));
        let answer = client.call(request(RANGE, &[GRPC]), &[&[0, 0xff, 0xff, 0xff, 0xff]]).await;
        let text = "grpc: received message larger than max (4294967295 vs. 2097152)";
        assert_eq!(answer.status(), (8, text.to_owned()));

        let whole = frame(0, &range("cut short"));
        for cut in [1, 4, 5, whole.len() - 1] {
            let answer = client.call(request(RANGE, &[GRPC]), &[&whole[..cut]]).await;
            assert_eq!(answer.status(), (2, "unexpected EOF".to_owned()), "{cut} bytes");
        }
        for empty in [&[][..], &[&b""[..]]] {
            let answer = client.call(request(RANGE, &[GRPC]), empty).await;
            assert_eq!(answer.status(), (2, "EOF".to_owned()));
        }
        let answer = client.call(request(RANGE, &[GRPC]), &[&whole, &frame(0, &range("second"))]).await;
        assert_eq!(response_of(&answer).count, 9);
    });
}

#[test]
fn a_message_of_the_largest_size_is_taken() {
    run(async {
        let (_harness, client) = Harness::client(Limits::default()).await;
        let key = vec![b'k'; 2_097_152 - 4];
        let request = ringstone_proto::etcdserverpb::RangeRequest { key: key.into(), ..Default::default() };
        assert_eq!(request.encoded_len(), 2_097_152);
        let options = Default::default();
        let response: RangeResponse =
            client.unary(ringstone_net::Method::KvRange, &request, &options).await.expect("taken");
        assert_eq!(response.count, 2_097_152 - 4);
    });
}

#[test]
fn unknown_paths() {
    run(async {
        let (harness, mut client) = client().await;
        for (path, text) in [
            ("/etcdserverpb.KV/Range?x=1", "unknown method Range?x=1 for service etcdserverpb.KV"),
            ("/etcdserverpb.KV/Rangee", "unknown method Rangee for service etcdserverpb.KV"),
            ("/etcdserverpb.KX/Range", "unknown service etcdserverpb.KX"),
            ("//etcdserverpb.KV/Range", "unknown service /etcdserverpb.KV"),
            ("/x", "malformed method name: \"/x\""),
        ] {
            let answer = client.call(request(path, &[GRPC]), &[&frame(0, &range("k"))]).await;
            assert_eq!(answer.http_status, 200);
            assert_eq!(answer.status(), (12, text.to_owned()));
        }
        assert_eq!(harness.handler.admitted.borrow().len(), 0, "no unknown path reaches the handler");
    });
}

#[test]
fn errors_are_one_frame_with_an_encoded_text() {
    run(async {
        let (_harness, mut client) = client().await;
        let answer = client.call(request(RANGE, &[GRPC]), &[&frame(0, &range("error"))]).await;
        assert!(answer.trailers_only());
        assert_eq!(answer.http_status, 200);
        assert_eq!(answer.status(), (11, "100%25 of %C3%BC%0Ais wrong".to_owned()));
        let names: Vec<&str> = answer.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["content-type", "grpc-status", "grpc-message"]);
    });
}

#[test]
fn bytes_that_are_no_message() {
    run(async {
        let (_harness, mut client) = client().await;
        let answer = client.call(request(RANGE, &[GRPC]), &[&frame(0, b"\x0a\xff")]).await;
        let text = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
        assert_eq!(answer.status(), (13, text.to_owned()));
    });
}

#[test]
fn a_refused_call_is_not_decoded() {
    run(async {
        let (harness, mut client) = client().await;
        let answer = client.call(request(RANGE, &[GRPC, ("token", "bad")]), &[&frame(0, b"\x0a\xff")]).await;
        assert_eq!(answer.status(), (16, "etcdserver: invalid auth token".to_owned()));
        assert_eq!(*harness.handler.admitted.borrow(), [ringstone_net::Method::KvRange]);
    });
}
