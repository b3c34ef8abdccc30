use http::HeaderValue;
use ringstone_proto::DecodeError;
use std::borrow::Cow;
use std::fmt;

/// gRPC's status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "gRPC's own names")]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// How many codes there are.
    pub const COUNT: usize = 17;
    /// All codes; the position is the number.
    pub const ALL: [Code; Self::COUNT] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The code of a number on the wire; what is no code is `Unknown`.
    pub fn from_number(number: u32) -> Code {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number)).copied().unwrap_or(Code::Unknown)
    }

    /// Go's name, the value of the `grpc_code` label.
    pub fn label(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }

    pub(crate) fn header(self) -> HeaderValue {
        const NUMBERS: [&str; Code::COUNT] =
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        HeaderValue::from_static(NUMBERS[self as usize])
    }
}

/// Why a call failed: what its caller gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// The text. etcd's clients match on it.
    pub message: Cow<'static, str>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code.label(), self.message)
    }
}

impl Status {
    /// A status of `code` with a text.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Status { code, message: message.into() }
    }

    /// What a call gets whose deadline passed.
    pub const DEADLINE_EXCEEDED: Status =
        Status { code: Code::DeadlineExceeded, message: Cow::Borrowed("context deadline exceeded") };
    /// What a handler sees whose caller went away.
    pub const CANCELED: Status = Status { code: Code::Canceled, message: Cow::Borrowed("context canceled") };

    pub(crate) fn message_header(&self) -> HeaderValue {
        encode_message(&self.message)
    }
}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Status::new(Code::Internal, format!("grpc: error unmarshalling request: {error}"))
    }
}

/// A text as `grpc-message`: what is not printable ASCII, and `%`, as `%XX` of its UTF-8 bytes.
pub(crate) fn encode_message(message: &str) -> HeaderValue {
    let plain = |byte: &u8| (0x20..=0x7e).contains(byte) && *byte != b'%';
    if message.bytes().all(|byte| plain(&byte)) {
        return HeaderValue::from_str(message).expect("printable ASCII is a header value");
    }
    let mut encoded = String::with_capacity(message.len() + 16);
    for byte in message.bytes() {
        if plain(&byte) {
            encoded.push(byte as char);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(DIGITS[usize::from(byte >> 4)] as char);
            encoded.push(DIGITS[usize::from(byte & 15)] as char);
        }
    }
    HeaderValue::from_str(&encoded).expect("printable ASCII is a header value")
}

/// The text of a `grpc-message`; sequences that are no `%XX` stay as they are.
pub(crate) fn decode_message(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |position: usize| tail.get(position).and_then(|&digit| (digit as char).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_header() {
        for text in ["", "plain text: ~ !", "100% of ü\nand \u{0} and \u{1f980}", "%41"] {
            let header = encode_message(text);
            assert!(header.as_bytes().iter().all(|byte| (0x20..=0x7e).contains(byte)));
            assert_eq!(decode_message(header.as_bytes()), text);
        }
        assert_eq!(encode_message("a%ü").as_bytes(), b"a%25%C3%BC");
        assert_eq!(decode_message(b"50%zz%4"), "50%zz%4");
    }

    #[test]
    fn numbers_and_codes_agree() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
            assert_eq!(code.header().as_bytes(), number.to_string().as_bytes());
            assert_eq!(Code::from_number(number as u32), code);
        }
        assert_eq!(Code::from_number(17), Code::Unknown);
    }
}
