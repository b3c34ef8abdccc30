//! A stand-in for TLS whose every byte follows from the seed: the keys of two histories of one seed are the same, and with
//! them all datagrams. It authenticates (a sum over key, number, header and payload), and hides nothing.
//!
//! ```text
//!  client  hello: random, parameters ->               initial keys
//!          <- server's hello: random                  initial keys     both sides know the handshake keys now
//!          <- server's end: parameters                handshake keys   and those of the data
//!          client's end ->                            handshake keys
//! ```

use std::any::Any;
use std::hash::Hasher as _;
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};
use quinn_proto::crypto::{
    self, AeadKey, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey, HmacKey, KeyPair, Keys,
    PacketKey, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

const TAG_BYTES: usize = 16;
/// Packets that one key is good for: more than there are.
const PACKETS_MAX: u64 = 1 << 40;

fn sum(secret: u64, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
    let mut hasher = SipHasher13::new_with_keys(secret, 7);
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish128().as_bytes()
}

fn derive(secret: u64, parts: &[&[u8]]) -> u64 {
    u64::from_le_bytes(sum(secret, parts)[..8].try_into().expect("8 bytes"))
}

#[derive(Clone, Copy)]
pub struct Key(pub u64);

impl PacketKey for Key {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - TAG_BYTES;
        let tag = sum(self.0, &[&packet.to_le_bytes(), &buf[..header_len], &buf[header_len..end]]);
        buf[end..].copy_from_slice(&tag);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let end = payload.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        let tag = sum(self.0, &[&packet.to_le_bytes(), header, &payload[..end]]);
        if payload[end..] != tag {
            return Err(CryptoError);
        }
        payload.truncate(end);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        PACKETS_MAX
    }

    fn integrity_limit(&self) -> u64 {
        PACKETS_MAX
    }
}

impl HeaderKey for Key {
    fn decrypt(&self, _: usize, _: &mut [u8]) {}

    fn encrypt(&self, _: usize, _: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        TAG_BYTES
    }
}

impl HmacKey for Key {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&sum(self.0, &[data]));
    }

    fn signature_len(&self) -> usize {
        TAG_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if signature == sum(self.0, &[data]) { Ok(()) } else { Err(CryptoError) }
    }
}

impl HandshakeTokenKey for Key {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(Key(derive(self.0, &[random_bytes])))
    }
}

impl AeadKey for Key {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let tag = sum(self.0, &[additional_data, data]);
        data.extend_from_slice(&tag);
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], additional_data: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let end = data.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        let (data, tag) = data.split_at_mut(end);
        if *tag == sum(self.0, &[additional_data, data]) { Ok(data) } else { Err(CryptoError) }
    }
}

fn keys(secret: u64) -> Keys {
    let boxed = |name: &[u8]| Box::new(Key(derive(secret, &[name])));
    Keys {
        header: KeyPair { local: boxed(b"header"), remote: boxed(b"header") },
        packet: KeyPair { local: boxed(b"packet"), remote: boxed(b"packet") },
    }
}

fn initial(cid: &ConnectionId) -> Keys {
    keys(derive(0, &[b"initial", cid]))
}

/// Both sides' configuration. Each session's random number follows from `secret` and how many there were.
pub struct Config {
    pub secret: u64,
    pub sessions: std::sync::atomic::AtomicU64,
}

impl Config {
    fn session(&self, side: Side, params: &TransportParameters) -> Box<dyn Session> {
        let number = self.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut parameters = Vec::new();
        params.write(&mut parameters);
        Box::new(Handshake {
            side,
            random: derive(self.secret, &[&number.to_le_bytes()]),
            parameters,
            heard: Vec::new(),
            theirs: None,
            their_random: None,
            is_ended: false,
            said: 0,
            generation: 0,
        })
    }
}

impl crypto::ClientConfig for Config {
    fn start_session(
        self: Arc<Self>,
        _: u32,
        _: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        Ok(self.session(Side::Client, params))
    }
}

impl crypto::ServerConfig for Config {
    fn initial_keys(&self, _: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        Ok(initial(dst_cid))
    }

    fn retry_tag(&self, _: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        sum(0, &[orig_dst_cid, packet])
    }

    fn start_session(self: Arc<Self>, _: u32, params: &TransportParameters) -> Box<dyn Session> {
        self.session(Side::Server, params)
    }
}

const HELLO: u8 = 1;
const END: u8 = 2;

/// One side of a handshake.
struct Handshake {
    side: Side,
    random: u64,
    parameters: Vec<u8>,
    /// What came and is no whole message yet.
    heard: Vec<u8>,
    theirs: Option<TransportParameters>,
    their_random: Option<u64>,
    /// The other side's last message is here.
    is_ended: bool,
    /// Steps that this side has made.
    said: u32,
    generation: u64,
}

impl Handshake {
    fn secret(&self, name: &[u8]) -> u64 {
        let theirs = self.their_random.expect("both have spoken");
        let (client, server) = if self.side.is_client() { (self.random, theirs) } else { (theirs, self.random) };
        derive(client, &[name, &server.to_le_bytes(), &self.generation.to_le_bytes()])
    }

    fn put(buf: &mut Vec<u8>, kind: u8, body: &[&[u8]]) {
        buf.put_u8(kind);
        buf.put_u16_le(body.iter().map(|part| part.len() as u16).sum());
        body.iter().for_each(|part| buf.put_slice(part));
    }

    fn take_parameters(&mut self, mut bytes: &[u8]) -> Result<(), TransportError> {
        let read = TransportParameters::read(self.side, &mut bytes);
        self.theirs = Some(read.map_err(|_| malformed())?);
        Ok(())
    }
}

fn malformed() -> TransportError {
    // TLS's alert for a handshake that fails.
    TransportErrorCode::crypto(40).into()
}

impl Session for Handshake {
    fn initial_keys(&self, dst_cid: &ConnectionId, _: Side) -> Keys {
        initial(dst_cid)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        match self.side {
            Side::Client => self.said < 3,
            Side::Server => !self.is_ended,
        }
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.heard.extend_from_slice(buf);
        while let Some((&[kind, low, high], rest)) = self.heard.split_first_chunk::<3>() {
            let length = usize::from(u16::from_le_bytes([low, high]));
            if rest.len() < length {
                break;
            }
            let body = rest[..length].to_vec();
            self.heard.drain(..3 + length);
            match (kind, self.side) {
                (HELLO, side) => {
                    let (random, parameters) = body.split_first_chunk::<8>().ok_or_else(malformed)?;
                    self.their_random = Some(u64::from_le_bytes(*random));
                    if side.is_server() {
                        self.take_parameters(parameters)?;
                    }
                }
                (END, Side::Client) => {
                    self.take_parameters(&body)?;
                    self.is_ended = true;
                }
                (END, Side::Server) => self.is_ended = true,
                _ => return Err(malformed()),
            }
        }
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.theirs)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let is_heard = self.their_random.is_some();
        match (self.side, self.said) {
            (Side::Client, 0) => {
                Handshake::put(buf, HELLO, &[&self.random.to_le_bytes(), &self.parameters]);
                self.said = 1;
                None
            }
            (Side::Client, 1) if is_heard => {
                self.said = 2;
                Some(keys(self.secret(b"handshake")))
            }
            (Side::Client, 2) if self.is_ended => {
                Handshake::put(buf, END, &[]);
                self.said = 3;
                Some(keys(self.secret(b"data")))
            }
            (Side::Server, 0) if is_heard => {
                Handshake::put(buf, HELLO, &[&self.random.to_le_bytes()]);
                self.said = 1;
                Some(keys(self.secret(b"handshake")))
            }
            (Side::Server, 1) => {
                Handshake::put(buf, END, &[&self.parameters]);
                self.said = 2;
                Some(keys(self.secret(b"data")))
            }
            _ => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.generation += 1;
        Some(keys(self.secret(b"data")).packet)
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some(end) = payload.len().checked_sub(TAG_BYTES) else { return false };
        payload[end..] == sum(0, &[orig_dst_cid, &[header, &payload[..end]].concat()])
    }

    fn export_keying_material(&self, _: &mut [u8], _: &[u8], _: &[u8]) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}
