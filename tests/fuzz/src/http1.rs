//! Bytes of HTTP/1.1: however they are cut, the same requests are read from them, and the connection ends.

use crate::serve::serve;

pub fn run(data: &[u8]) {
    let Some((&step, data)) = data.split_first() else { return };
    // Behind such a start it is another protocol, which is another target's.
    if data.starts_with(b"PRI") {
        return;
    }
    let whole = serve(&[data]);
    let step = usize::from(step) + 1;
    let cut = serve(&data.chunks(step.max(data.len() / 64 + 1)).collect::<Vec<_>>());
    assert_eq!(whole.requests, cut.requests, "what is read follows how it was cut");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let requests: [&[u8]; 12] = [
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcdeGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nabcde\r\n0\r\nT: u\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"\r\n\r\nGET http://a/b?c HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
    ];
    requests.iter().zip(0u8..).map(|(request, step)| [&[step][..], request].concat()).collect()
}
