//! One process's end of all its connections: quinn-proto, with the shipping hello, choice of connections, queues and frames.
//!
//! The twin of `net::peer` without sockets: time comes in, datagrams come in and go out.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, ConnectionId, ConnectionIdGenerator, DatagramEvent, Dir, Endpoint,
    EndpointConfig, Event, ServerConfig, StreamEvent, StreamId, ValidationTokenConfig, VarInt,
};
use ringstone_core::said::Lane;
use ringstone_net::peer::PeerLimits;
use ringstone_net::peer::close::CloseCode;
use ringstone_net::peer::frame::{Decoder, Frame, FrameKind, STREAM_LOG, STREAM_SNAPSHOT, StreamKind, encode_header};
use ringstone_net::peer::hello::{Features, HELLO_BYTES, Hello, Identity};
use ringstone_net::peer::queue::{ControlQueue, LogQueue};
use ringstone_net::peer::registry::{Choice, Latest, Live, choose};
use ringstone_net::peer::settings::transport;

use super::crypto::{Config, Key};

/// What came from another member, and from which.
pub enum Heard {
    Frame(u64, Frame),
    /// An image, as it was given to [`Host::send_image`].
    Image(u64, Vec<u8>),
    /// An image was taken by that member, or was not.
    ImageSent(u64, bool),
    /// The connection is gone.
    Lost(u64),
}

enum Reader {
    /// Its first byte is not here yet.
    New,
    Hello(Vec<u8>),
    Frames(Decoder),
    Image(Vec<u8>),
}

struct Link {
    connection: Connection,
    peer: Option<u64>,
    dialled: bool,
    began: Instant,
    hello: Option<Hello>,
    control: Option<StreamId>,
    log: Option<StreamId>,
    /// What is on its way into the two streams.
    writing: [VecDeque<Bytes>; 2],
    readers: BTreeMap<StreamId, Reader>,
    images: BTreeMap<StreamId, VecDeque<Bytes>>,
}

pub struct Host {
    endpoint: Endpoint,
    client: ClientConfig,
    identity: Identity,
    limits: PeerLimits,
    sequence: u64,
    links: BTreeMap<usize, Link>,
    /// By member.
    live: BTreeMap<u64, usize>,
    latest: BTreeMap<u64, Latest>,
    queues: BTreeMap<u64, (ControlQueue, LogQueue)>,
    pub datagrams: Vec<(u64, Vec<u8>)>,
    pub heard: VecDeque<Heard>,
}

struct Ids(Arc<AtomicU64>, u64);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        next_id(&self.0, self.1)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn next_id(count: &AtomicU64, secret: u64) -> ConnectionId {
    let number = count.fetch_add(1, Ordering::Relaxed);
    ConnectionId::new(&super::super::random::Random::new(secret ^ number.rotate_left(32)).next().to_be_bytes())
}

pub fn address(id: u64) -> SocketAddr {
    let id = u8::try_from(id).expect("a history has few members");
    (Ipv4Addr::new(10, 0, 0, id), 2380).into()
}

fn member_at(address: SocketAddr) -> u64 {
    match address {
        SocketAddr::V4(address) => u64::from(address.ip().octets()[3]),
        SocketAddr::V6(_) => unreachable!("nobody has such an address"),
    }
}

impl Host {
    pub fn new(id: u64, cluster_id: u64, incarnation: u64, secret: u64) -> Host {
        let limits = PeerLimits::default();
        let ids = Arc::new(AtomicU64::new(0));
        let mut config = EndpointConfig::new(Arc::new(Key(secret)));
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&secret.to_le_bytes());
        let generator = Arc::clone(&ids);
        config.rng_seed(Some(seed)).cid_generator(move || Box::new(Ids(Arc::clone(&generator), secret)));
        let transport = Arc::new(transport(&limits));
        let crypto = Arc::new(Config { secret, sessions: AtomicU64::new(0) });
        let mut server = ServerConfig::new(Arc::clone(&crypto) as _, Arc::new(Key(secret)));
        server.transport_config(Arc::clone(&transport)).migration(false);
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0);
        server.validation_token_config(tokens);
        let mut client = ClientConfig::new(crypto as _);
        client.transport_config(transport);
        client.initial_dst_cid_provider(Arc::new(move || next_id(&ids, !secret)));
        let (features, known_features) = (Features::default(), Features::default());
        Host {
            endpoint: Endpoint::new(Arc::new(config), Some(Arc::new(server)), true, None),
            client,
            identity: Identity { cluster_id, member_id: id, incarnation, process: secret, features, known_features },
            limits,
            sequence: 0,
            links: BTreeMap::new(),
            live: BTreeMap::new(),
            latest: BTreeMap::new(),
            queues: BTreeMap::new(),
            datagrams: Vec::new(),
            heard: VecDeque::new(),
        }
    }

    /// Where there is no live connection, and no dial under way.
    pub fn dial(&mut self, now: Instant, peer: u64) {
        let is_dialled = |link: &Link| link.peer == Some(peer) && link.dialled && !link.connection.is_closed();
        if self.live.contains_key(&peer) || self.links.values().any(is_dialled) {
            return;
        }
        let client = self.client.clone();
        let Ok((handle, connection)) = self.endpoint.connect(now, client, address(peer), "ringstone-peer") else {
            return;
        };
        self.add(now, handle, connection, Some(peer));
        self.drive(now, handle.0);
    }

    fn add(&mut self, now: Instant, handle: ConnectionHandle, connection: Connection, dialled: Option<u64>) {
        let link = Link {
            connection,
            peer: dialled,
            dialled: dialled.is_some(),
            began: now,
            hello: None,
            control: None,
            log: None,
            writing: Default::default(),
            readers: BTreeMap::new(),
            images: BTreeMap::new(),
        };
        self.links.insert(handle.0, link);
    }

    /// Sends to a member; where it is not connected, nothing.
    pub fn send(&mut self, now: Instant, peer: u64, lane: Lane, group: u64, payload: Bytes) {
        let Some(&handle) = self.live.get(&peer) else { return };
        let limits = &self.limits;
        let (control, log) = self.queues.entry(peer).or_insert_with(|| {
            let control = ControlQueue::new(limits.control_queue_frames_max, limits.control_queue_bytes_max);
            (control, LogQueue::new(limits.log_queue_frames_max, limits.log_queue_bytes_max))
        });
        match lane {
            Lane::Control => control.push(Frame { kind: FrameKind::Control, group, payload }),
            Lane::Heartbeat => control.push(Frame { kind: FrameKind::Heartbeat, group, payload }),
            // Full: lost, and raft says it again.
            Lane::Log => drop(log.push(Frame { kind: FrameKind::Log, group, payload })),
        }
        self.drive(now, handle);
    }

    /// Sends an image on a stream of its own; [`Heard::ImageSent`] tells what came of it.
    pub fn send_image(&mut self, now: Instant, peer: u64, image: Vec<u8>) {
        let link = self.live.get(&peer).and_then(|handle| self.links.get_mut(handle));
        let stream = link.and_then(|link| Some((link.connection.streams().open(Dir::Uni)?, link)));
        let Some((stream, link)) = stream else {
            return self.heard.push_back(Heard::ImageSent(peer, false));
        };
        let _ = link.connection.send_stream(stream).set_priority(-1);
        let head = Bytes::from_static(&[STREAM_SNAPSHOT]);
        link.images.insert(stream, VecDeque::from([head, Bytes::from(image)]));
        let handle = self.live[&peer];
        self.drive(now, handle);
    }

    pub fn receive(&mut self, now: Instant, from: u64, datagram: &[u8]) {
        let mut answer = Vec::new();
        let event = self.endpoint.handle(now, address(from), None, None, BytesMut::from(datagram), &mut answer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(link) = self.links.get_mut(&handle.0) {
                    link.connection.handle_event(event);
                    self.drive(now, handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut answer, None) {
                    Ok((handle, connection)) => {
                        self.add(now, handle, connection, None);
                        self.drive(now, handle.0);
                    }
                    Err(error) => {
                        if let Some(transmit) = error.response {
                            self.datagrams.push((member_at(transmit.destination), answer[..transmit.size].to_vec()));
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.datagrams.push((member_at(transmit.destination), answer[..transmit.size].to_vec()));
            }
            None => {}
        }
    }

    /// When something is due.
    pub fn timeout(&mut self) -> Option<Instant> {
        let handshake = self.limits.handshake_timeout;
        let of_link = |link: &mut Link| {
            let greets = (link.hello.is_none() && !link.connection.is_closed()).then(|| link.began + handshake);
            [link.connection.poll_timeout(), greets].into_iter().flatten().min()
        };
        self.links.values_mut().filter_map(of_link).min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let handles: Vec<usize> = self.links.keys().copied().collect();
        for handle in handles {
            let Some(link) = self.links.get_mut(&handle) else { continue };
            let greets = link.hello.is_none() && !link.connection.is_closed();
            if greets && link.began + self.limits.handshake_timeout <= now {
                self.close(now, handle, CloseCode::HandshakeTimeout);
                continue;
            }
            if link.connection.poll_timeout().is_some_and(|at| at <= now) {
                link.connection.handle_timeout(now);
                self.drive(now, handle);
            }
        }
    }

    fn close(&mut self, now: Instant, handle: usize, code: CloseCode) {
        self.lose(handle);
        if let Some(link) = self.links.get_mut(&handle) {
            link.connection.close(now, VarInt::from_u32(code as u32), Bytes::new());
            self.flush(now, handle);
        }
    }

    /// It is not the live one any more.
    fn lose(&mut self, handle: usize) {
        let Some(link) = self.links.get_mut(&handle) else { return };
        let Some(peer) = link.peer else { return };
        let images = std::mem::take(&mut link.images);
        self.heard.extend(images.into_keys().map(|_| Heard::ImageSent(peer, false)));
        if self.live.get(&peer) == Some(&handle) {
            self.live.remove(&peer);
            self.queues.remove(&peer);
            self.heard.push_back(Heard::Lost(peer));
        }
    }

    /// Moves a connection on as far as it goes.
    fn drive(&mut self, now: Instant, handle: usize) {
        while let Some(event) = self.links.get_mut(&handle).and_then(|link| link.connection.poll()) {
            match event {
                Event::Connected => self.connected(handle),
                Event::ConnectionLost { .. } => self.lose(handle),
                Event::Stream(event) => {
                    if let Err(code) = self.stream_event(now, handle, event) {
                        self.close(now, handle, code);
                    }
                }
                _ => {}
            }
        }
        self.write(handle);
        self.flush(now, handle);
    }

    fn flush(&mut self, now: Instant, handle: usize) {
        let mut buffer = Vec::new();
        loop {
            let Some(link) = self.links.get_mut(&handle) else { return };
            while let Some(transmit) = link.connection.poll_transmit(now, 1, &mut buffer) {
                self.datagrams.push((member_at(transmit.destination), buffer[..transmit.size].to_vec()));
                buffer.clear();
            }
            let Some(event) = link.connection.poll_endpoint_events() else { break };
            let is_drained = event.is_drained();
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(handle), event) {
                link.connection.handle_event(event);
            }
            if is_drained {
                self.lose(handle);
                self.links.remove(&handle);
            }
        }
    }

    /// Who dials speaks first.
    fn connected(&mut self, handle: usize) {
        let link = self.links.get_mut(&handle).expect("it is driven");
        let Some(peer) = link.peer.filter(|_| link.dialled) else { return };
        self.sequence += 1;
        let hello = self.identity.hello(peer, self.sequence);
        link.control = link.connection.streams().open(Dir::Bi);
        let control = link.control.expect("the other side takes one");
        link.readers.insert(control, Reader::Hello(Vec::new()));
        link.writing[0].push_back(Bytes::copy_from_slice(&hello.encode()));
    }

    fn stream_event(&mut self, now: Instant, handle: usize, event: StreamEvent) -> Result<(), CloseCode> {
        match event {
            StreamEvent::Opened { dir } => loop {
                let link = self.links.get_mut(&handle).expect("it is driven");
                let Some(stream) = link.connection.streams().accept(dir) else { return Ok(()) };
                let reader = match dir {
                    Dir::Bi if link.control.is_some() => return Err(CloseCode::Protocol),
                    Dir::Bi => {
                        link.control = Some(stream);
                        Reader::Hello(Vec::new())
                    }
                    Dir::Uni => Reader::New,
                };
                link.readers.insert(stream, reader);
                self.read(now, handle, stream)?;
            },
            StreamEvent::Readable { id } => self.read(now, handle, id),
            StreamEvent::Finished { id } | StreamEvent::Stopped { id, .. } => {
                let link = self.links.get_mut(&handle).expect("it is driven");
                let was_image = link.images.remove(&id).is_some();
                if let (true, Some(peer)) = (was_image, link.peer) {
                    let delivered = matches!(event, StreamEvent::Finished { .. });
                    self.heard.push_back(Heard::ImageSent(peer, delivered));
                }
                Ok(())
            }
            StreamEvent::Writable { .. } | StreamEvent::Available { .. } => Ok(()),
        }
    }

    fn read(&mut self, now: Instant, handle: usize, stream: StreamId) -> Result<(), CloseCode> {
        loop {
            let Some(link) = self.links.get_mut(&handle) else { return Ok(()) };
            if !link.readers.contains_key(&stream) {
                return Ok(());
            }
            let mut receiving = link.connection.recv_stream(stream);
            let Ok(mut chunks) = receiving.read(true) else { return Ok(()) };
            let chunk = chunks.next(usize::MAX);
            let _ = chunks.finalize();
            match chunk {
                Ok(Some(chunk)) => self.take(now, handle, stream, chunk.bytes)?,
                Ok(None) => {
                    let link = self.links.get_mut(&handle).expect("it is driven");
                    if let (Some(Reader::Image(image)), Some(peer)) = (link.readers.remove(&stream), link.peer) {
                        self.heard.push_back(Heard::Image(peer, image));
                    }
                    return Ok(());
                }
                // Blocked, or reset.
                Err(_) => return Ok(()),
            }
        }
    }

    fn take(&mut self, now: Instant, handle: usize, stream: StreamId, mut bytes: Bytes) -> Result<(), CloseCode> {
        let limits = &self.limits;
        while bytes.has_remaining() {
            let link = self.links.get_mut(&handle).expect("it is driven");
            let peer = link.peer;
            let Some(reader) = link.readers.get_mut(&stream) else { return Ok(()) };
            match reader {
                Reader::New => {
                    *reader = match bytes.get_u8() {
                        STREAM_LOG => Reader::Frames(Decoder::new(StreamKind::Log, limits)),
                        STREAM_SNAPSHOT => Reader::Image(Vec::new()),
                        _ => return Err(CloseCode::Protocol),
                    };
                }
                Reader::Hello(hello) => {
                    let count = bytes.remaining().min(HELLO_BYTES - hello.len());
                    hello.put_slice(&bytes.split_to(count));
                    if let Ok(head) = <&[u8; HELLO_BYTES]>::try_from(hello.as_slice()) {
                        let hello = Hello::decode(head).map_err(|_| CloseCode::BadHello)?;
                        *reader = Reader::Frames(Decoder::new(StreamKind::Control, limits));
                        self.greeted(now, handle, hello)?;
                        return self.rest(now, handle, stream, bytes);
                    }
                }
                Reader::Frames(decoder) => {
                    while let Some(frame) = decoder.take(&mut bytes).map_err(|error| error.close_code())? {
                        self.heard.extend(peer.map(|peer| Heard::Frame(peer, frame)));
                    }
                }
                Reader::Image(image) => image.put_slice(&bytes.split_off(0)),
            }
        }
        Ok(())
    }

    fn rest(&mut self, now: Instant, handle: usize, stream: StreamId, bytes: Bytes) -> Result<(), CloseCode> {
        if bytes.is_empty() { Ok(()) } else { self.take(now, handle, stream, bytes) }
    }

    /// The other side has said who it is.
    fn greeted(&mut self, now: Instant, handle: usize, hello: Hello) -> Result<(), CloseCode> {
        let link = &self.links[&handle];
        let dialled = link.peer.filter(|_| link.dialled);
        let peer = hello.from;
        self.identity.check(&hello, dialled).map_err(|refusal| refusal.code)?;
        let live = self.live.get(&peer).and_then(|live| {
            let link = &self.links[live];
            let hello = link.hello.as_ref()?;
            Some(Live { dialled: link.dialled, process: hello.process, sequence: hello.sequence })
        });
        let latest = self.latest.get(&peer).copied();
        let ours = self.identity.member_id;
        match choose(ours, latest, live, &hello, dialled.is_some()).map_err(|refusal| refusal.code)? {
            Choice::Keep => return Err(CloseCode::Tie),
            Choice::Take(code) => {
                if let Some(live) = self.live.get(&peer).copied() {
                    self.close(now, live, code);
                }
            }
        }
        self.latest.insert(peer, Latest { incarnation: hello.incarnation, process: Some(hello.process) });
        let link = self.links.get_mut(&handle).expect("it is driven");
        link.peer = Some(peer);
        link.hello = Some(hello);
        if !link.dialled {
            self.sequence += 1;
            let answer = self.identity.hello(peer, self.sequence).encode();
            link.writing[0].push_back(Bytes::copy_from_slice(&answer));
        }
        link.log = link.connection.streams().open(Dir::Uni);
        link.writing[1].push_back(Bytes::from_static(&[STREAM_LOG]));
        self.live.insert(peer, handle);
        Ok(())
    }

    /// What waits goes into the streams, as far as they take it.
    fn write(&mut self, handle: usize) {
        let Some(link) = self.links.get_mut(&handle) else { return };
        let peer = link.peer.filter(|peer| self.live.get(peer) == Some(&handle));
        let queues = peer.and_then(|peer| self.queues.get_mut(&peer));
        let (mut control, mut log) = queues.map_or((None, None), |(control, log)| (Some(control), Some(log)));
        for (number, stream) in [link.control, link.log].into_iter().enumerate() {
            let Some(stream) = stream else { continue };
            let writing = &mut link.writing[number];
            loop {
                if writing.is_empty() {
                    let next = if number == 0 {
                        control.as_mut().and_then(|queue| queue.pop())
                    } else {
                        log.as_mut().and_then(|queue| queue.pop())
                    };
                    let Some(Frame { kind, group, payload }) = next else { break };
                    let head = encode_header(kind, group, payload.len() as u32);
                    writing.push_back(Bytes::copy_from_slice(&head));
                    if !payload.is_empty() {
                        writing.push_back(payload);
                    }
                }
                if !push(&mut link.connection, stream, writing) {
                    break;
                }
            }
        }
        for (stream, writing) in link.images.iter_mut().filter(|(_, writing)| !writing.is_empty()) {
            if push(&mut link.connection, *stream, writing) {
                let _ = link.connection.send_stream(*stream).finish();
            }
        }
    }
}

/// False: the stream takes no more for now.
fn push(connection: &mut Connection, stream: StreamId, writing: &mut VecDeque<Bytes>) -> bool {
    while let Some(front) = writing.front_mut() {
        match connection.send_stream(stream).write(front) {
            Ok(written) => front.advance(written),
            Err(_) => return false,
        }
        if front.is_empty() {
            writing.pop_front();
        }
    }
    true
}
