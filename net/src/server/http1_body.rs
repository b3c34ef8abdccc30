//! Where does an HTTP/1.1 request end?
//!
//! Whoever answers this differently from a proxy in front of us lets one client speak in the name of another. So there is
//! one reading and everything else is refused: at most one Content-Length of digits only, or exactly one
//! Transfer-Encoding that says `chunked`, never both; chunk sizes of digits only; CR LF everywhere.

use super::http1::Refused;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Version, header};

/// A chunk's line with its extensions, which nobody needs.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Trailers, which are read and forgotten.
const TRAILER_BYTES_MAX: usize = 8 << 10;

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

pub(super) fn framing(headers: &HeaderMap, version: Version, body_bytes_max: usize) -> Result<Framing, Refused> {
    let lengths: Vec<&HeaderValue> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
    let codings: Vec<&HeaderValue> = headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let length = decimal(length.as_bytes()).ok_or(Refused::bad("bad Content-Length"))?;
            match usize::try_from(length) {
                Ok(length) if length <= body_bytes_max => Ok(Framing::Length(length)),
                _ => Err(Refused { status: 413, why: "body too large" }),
            }
        }
        ([], [coding]) if version == Version::HTTP_11 => match coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            true => Ok(Framing::Chunked),
            false => Err(Refused { status: 501, why: "unsupported transfer encoding" }),
        },
        ([], [_]) => Err(Refused::bad("Transfer-Encoding in HTTP/1.0")),
        ([_, _, ..], []) => Err(Refused::bad("more than one Content-Length")),
        ([], [_, _, ..]) => Err(Refused::bad("more than one Transfer-Encoding")),
        (_, _) => Err(Refused::bad("Content-Length and Transfer-Encoding")),
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let whole = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
    whole.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Takes a body off the front of what was read, piece by piece.
pub(super) struct BodyReader {
    body: BytesMut,
    body_bytes_max: usize,
    state: State,
}

enum State {
    /// Bytes of a body of known length that are to come.
    Length(usize),
    ChunkLine,
    /// Bytes of this chunk that are to come, then CR LF.
    Chunk(usize),
    ChunkEnd,
    Trailers {
        seen_bytes: usize,
    },
}

impl BodyReader {
    pub(super) fn new(framing: Framing, body_bytes_max: usize) -> Self {
        let state = match framing {
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkLine,
        };
        BodyReader { body: BytesMut::new(), body_bytes_max, state }
    }

    /// Bytes of the body so far, with what is reserved for more.
    pub(super) fn held_bytes(&self) -> usize {
        self.body.capacity()
    }

    /// Takes what it can; the body when it is whole.
    pub(super) fn advance(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Refused> {
        loop {
            match &mut self.state {
                State::Length(left) | State::Chunk(left) if *left > 0 => {
                    let count = input.len().min(*left);
                    *left -= count;
                    self.body.extend_from_slice(&input[..count]);
                    input.advance(count);
                    if *left > 0 {
                        return Ok(None);
                    }
                }
                State::Length(_) => return Ok(Some(self.body.split().freeze())),
                State::Chunk(_) => self.state = State::ChunkEnd,
                State::ChunkEnd => match input.get(..2) {
                    None => return Ok(None),
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.state = State::ChunkLine;
                    }
                    Some(_) => return Err(Refused::bad("chunk longer than its size")),
                },
                State::ChunkLine => {
                    let Some(line) = take_line(input, CHUNK_LINE_BYTES_MAX)? else { return Ok(None) };
                    let size = chunk_size(&line)?;
                    if size > self.body_bytes_max - self.body.len() {
                        return Err(Refused { status: 413, why: "body too large" });
                    }
                    self.state = if size == 0 { State::Trailers { seen_bytes: 0 } } else { State::Chunk(size) };
                }
                State::Trailers { seen_bytes } => {
                    let Some(line) = take_line(input, TRAILER_BYTES_MAX)? else { return Ok(None) };
                    if line.is_empty() {
                        return Ok(Some(self.body.split().freeze()));
                    }
                    *seen_bytes += line.len();
                    if *seen_bytes > TRAILER_BYTES_MAX {
                        return Err(Refused::bad("trailers too large"));
                    }
                }
            }
        }
    }
}

/// Takes a line without its CR LF; a CR or LF of its own is refused.
fn take_line(input: &mut BytesMut, bytes_max: usize) -> Result<Option<BytesMut>, Refused> {
    let end = input.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    match end {
        Some(end) if end > bytes_max => Err(Refused::bad("line too long")),
        None if input.len() > bytes_max => Err(Refused::bad("line too long")),
        None => Ok(None),
        Some(end) => match (input[end], input.get(end + 1)) {
            (b'\r', None) => Ok(None),
            (b'\r', Some(b'\n')) => {
                let line = input.split_to(end);
                input.advance(2);
                Ok(Some(line))
            }
            _ => Err(Refused::bad("CR or LF alone")),
        },
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, Refused> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Refused::bad("bad chunk size"));
    }
    let digit = |byte: &u8| (*byte as char).to_digit(16).expect("a hexadecimal digit") as usize;
    Ok(digits.iter().fold(0, |size, byte| size << 4 | digit(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(framing: Framing, input: &[u8], step: usize) -> Result<Option<(Bytes, usize)>, Refused> {
        let mut reader = BodyReader::new(framing, 1000);
        let mut buffer = BytesMut::new();
        let mut taken = 0;
        for chunk in input.chunks(step) {
            buffer.extend_from_slice(chunk);
            let before = buffer.len();
            let body = reader.advance(&mut buffer)?;
            taken += before - buffer.len();
            if let Some(body) = body {
                return Ok(Some((body, taken)));
            }
        }
        Ok(None)
    }

    #[test]
    fn chunks_are_joined_however_they_are_cut() {
        let input = b"3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nGET";
        for step in 1..=input.len() {
            let (body, taken) = read(Framing::Chunked, input, step).expect("valid").expect("whole");
            assert_eq!(&body[..], b"abc0123456789");
            assert_eq!(taken, input.len() - 3);
        }
        assert_eq!(read(Framing::Length(3), b"abcdef", 2), Ok(Some((Bytes::from("abc"), 3))));
        assert_eq!(read(Framing::Length(7), b"abcdef", 2), Ok(None));
    }

    #[test]
    fn doubtful_chunks_are_refused() {
        for input in [
            &b"3\nabc\n0\n\n"[..],
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"-3\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"3 \r\nabc\r\n0\r\n\r\n",
            b"\r\nabc\r\n0\r\n\r\n",
            b"ffffffffffffffff3\r\nabc\r\n0\r\n\r\n",
            b"000000003\r\nabc\r\n",
            b"3;a\rb\r\nabc\r\n0\r\n\r\n",
            b"3e9\r\n",
        ] {
            assert!(read(Framing::Chunked, input, input.len()).is_err(), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn one_reading_of_lengths_or_none() {
        let case = |lines: &[(&str, &str)], version| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let name = header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
                headers.append(name, value.parse().expect("a value"));
            }
            framing(&headers, version, 1000).map_err(|refused| refused.status)
        };
        let (cl, te) = ("content-length", "transfer-encoding");
        let v11 = Version::HTTP_11;
        assert_eq!(case(&[], v11), Ok(Framing::Length(0)));
        assert_eq!(case(&[(cl, "1000")], v11), Ok(Framing::Length(1000)));
        assert_eq!(case(&[(te, "Chunked")], v11), Ok(Framing::Chunked));
        assert_eq!(case(&[(cl, "1001")], v11), Err(413));
        assert_eq!(case(&[(cl, "1"), (cl, "1")], v11), Err(400));
        assert_eq!(case(&[(cl, "1, 1")], v11), Err(400));
        assert_eq!(case(&[(cl, "1"), (te, "chunked")], v11), Err(400));
        assert_eq!(case(&[(te, "chunked"), (te, "chunked")], v11), Err(400));
        assert_eq!(case(&[(te, "gzip, chunked")], v11), Err(501));
        assert_eq!(case(&[(te, "xchunked")], v11), Err(501));
        assert_eq!(case(&[(te, "chunked")], Version::HTTP_10), Err(400));
        for bad in ["+1", "-1", "0x1", "", "1 1", "1a", "99999999999999999999"] {
            assert_eq!(case(&[(cl, bad)], v11), Err(400), "{bad}");
        }
        assert_eq!(case(&[(cl, "9999999999999999999")], v11), Err(413));
    }
}
