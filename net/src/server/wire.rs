//! What stands between HTTP/2 and the socket.
//!
//! Writes are gathered until the end of a turn, so that all answers that became ready in it leave in one write. Frames
//! that come in are looked at on their way: HTTP/2's pings are answered inside of `h2`, which doesn't show them, and
//! they have to be counted. What is read in one turn is bounded, in bytes and in frames, so that one client can't keep the
//! shard. And nothing is read from a client that does not read: whatever it asked for would pile up here.

use bytes::{Buf, Bytes};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes above which a write goes out before the turn ends.
const OUT_BYTES_MAX: usize = 64 << 10;
/// A buffer larger than this is given back when it is empty.
const OUT_KEPT_BYTES_MAX: usize = 16 << 10;
/// Bytes read in one turn.
const TURN_READ_BYTES_MAX: usize = 128 << 10;
/// Frames read in one turn; one read of the socket more may be in it. A frame may be a call, which takes some microseconds.
const TURN_FRAMES_MAX: u32 = 256;

pub(super) struct Wire<S>(Rc<RefCell<State<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Wire(self.0.clone())
    }
}

struct State<S> {
    stream: S,
    /// Read by the sniffer, to be read again by `h2`.
    preface: Bytes,
    out: Vec<u8>,
    out_written: usize,
    /// h2 has nothing half written: another frame may be put behind.
    at_frame_boundary: bool,
    frames: FrameScanner,
    sent_frames: FrameScanner,
    turn_read_bytes: usize,
    turn_frames: u32,
    starved: bool,
    /// Its handlers have enough to do.
    held: bool,
    /// The socket took no more: nothing is read until it does.
    socket_full: bool,
    read_bytes: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, preface: Bytes) -> Self {
        Wire(Rc::new(RefCell::new(State {
            stream,
            preface,
            out: Vec::new(),
            out_written: 0,
            at_frame_boundary: true,
            frames: FrameScanner::default(),
            sent_frames: FrameScanner::default(),
            turn_read_bytes: 0,
            turn_frames: 0,
            starved: false,
            held: false,
            socket_full: false,
            read_bytes: 0,
        })))
    }

    pub(super) fn begin_turn(&self) {
        let state = &mut *self.0.borrow_mut();
        state.turn_read_bytes = 0;
        state.turn_frames = state.frames.frames;
        state.starved = false;
    }

    /// True if the turn's share of reading is used up; there may be more.
    pub(super) fn starved(&self) -> bool {
        self.0.borrow().starved
    }

    /// While `held`, nothing is read. True if it was and is no longer: HTTP/2 has to be polled.
    pub(super) fn hold(&self, held: bool) -> bool {
        std::mem::replace(&mut self.0.borrow_mut().held, held) && !held
    }

    /// True while the client takes nothing.
    pub(super) fn is_full(&self) -> bool {
        self.0.borrow().socket_full
    }

    /// Bytes held between turns: gathered ones, and those of a head that is not complete.
    pub(super) fn held_bytes(&self) -> usize {
        let state = self.0.borrow();
        state.out.capacity() + state.frames.open_head_bytes
    }

    /// True while a head's last frame has not come.
    pub(super) fn is_within_head(&self) -> bool {
        self.0.borrow().frames.open_head_bytes > 0
    }

    /// Bytes read so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.0.borrow().read_bytes
    }

    /// True if an answer, or a part of one, was written since the last call: Go forgives pings then.
    pub(super) fn take_answered(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().sent_frames.answers)
    }

    /// The client's pings since the last call.
    pub(super) fn take_pings(&self) -> u32 {
        std::mem::take(&mut self.0.borrow_mut().frames.pings)
    }

    /// Writes what was gathered.
    pub(super) fn poll_write_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.poll_write_out(cx, 0))?;
        Pin::new(&mut state.stream).poll_flush(cx)
    }

    /// Puts a GOAWAY with a text behind what was gathered; `h2` sends none with a text. False if h2 is within a frame.
    pub(super) fn push_go_away(&self, last_stream: u32, code: u32, text: &[u8]) -> bool {
        let state = &mut *self.0.borrow_mut();
        if !state.at_frame_boundary {
            return false;
        }
        let length = 8 + text.len() as u32;
        state.out.extend_from_slice(&length.to_be_bytes()[1..]);
        state.out.extend_from_slice(&[7, 0, 0, 0, 0, 0]);
        state.out.extend_from_slice(&last_stream.to_be_bytes());
        state.out.extend_from_slice(&code.to_be_bytes());
        state.out.extend_from_slice(text);
        true
    }

    /// Closes our half, then reads and forgets until the client has closed its half: closing a socket with unread bytes
    /// would take our last frames with it.
    pub(super) async fn linger(&self) {
        let closed = std::future::poll_fn(|cx| {
            let mut wire = self.clone();
            Pin::new(&mut wire).poll_shutdown(cx)
        });
        if closed.await.is_err() {
            return;
        }
        std::future::poll_fn(|cx| {
            let state = &mut *self.0.borrow_mut();
            let mut scratch = [0u8; 4096];
            loop {
                let mut buffer = ReadBuf::new(&mut scratch);
                match Pin::new(&mut state.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> State<S> {
    /// Writes until at most `keep` gathered bytes are left.
    fn poll_write_out(&mut self, cx: &mut Context<'_>, keep: usize) -> Poll<io::Result<()>> {
        while self.out.len() - self.out_written > keep {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.out[self.out_written..]);
            self.socket_full = polled.is_pending();
            let written = ready!(polled)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out_written += written;
        }
        if self.out_written == self.out.len() {
            self.out_written = 0;
            match self.out.capacity() > OUT_KEPT_BYTES_MAX {
                true => self.out = Vec::new(),
                false => self.out.clear(),
            }
        } else if self.out_written >= OUT_BYTES_MAX / 2 {
            self.out.drain(..self.out_written);
            self.out_written = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        if !state.preface.is_empty() {
            let count = state.preface.len().min(buffer.remaining());
            buffer.put_slice(&state.preface[..count]);
            state.preface.advance(count);
            return Poll::Ready(Ok(()));
        }
        if state.socket_full {
            // Woken when the socket takes more.
            ready!(state.poll_write_out(cx, 0))?;
        }
        // Whoever changes this has HTTP/2 polled again.
        if state.held {
            return Poll::Pending;
        }
        let frames = state.frames.frames.wrapping_sub(state.turn_frames);
        if state.turn_read_bytes >= TURN_READ_BYTES_MAX || frames >= TURN_FRAMES_MAX {
            state.starved = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut state.stream).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        state.turn_read_bytes += read.len();
        state.read_bytes += read.len() as u64;
        state.frames.scan(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.borrow_mut();
        if state.out.len() - state.out_written >= OUT_BYTES_MAX {
            ready!(state.poll_write_out(cx, OUT_BYTES_MAX / 2))?;
        }
        state.at_frame_boundary = false;
        // A client may allow frames of 16 MiB.
        let taken = bytes.len().min(OUT_BYTES_MAX);
        state.sent_frames.scan(&bytes[..taken]);
        state.out.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    /// `h2` flushes when all its frames are written, which may be many times in a turn: see [`Wire::poll_write_out`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().at_frame_boundary = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}

/// Follows the frame heads in a stream of bytes behind the preface.
#[derive(Default)]
struct FrameScanner {
    head: [u8; 9],
    head_filled: usize,
    payload_left: usize,
    /// Heads of frames that have come by, wrapping.
    frames: u32,
    /// Bytes of a HEADERS frame and its CONTINUATIONs while the last one has not come; at least 1 then.
    open_head_bytes: usize,
    pings: u32,
    /// A DATA or HEADERS frame has come by.
    answers: bool,
}

impl FrameScanner {
    fn scan(&mut self, mut bytes: &[u8]) {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const PING: u8 = 6;
        const CONTINUATION: u8 = 9;
        const ACK: u8 = 1;
        const END_HEADERS: u8 = 4;
        loop {
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let count = (self.head.len() - self.head_filled).min(bytes.len());
            self.head[self.head_filled..self.head_filled + count].copy_from_slice(&bytes[..count]);
            self.head_filled += count;
            bytes = &bytes[count..];
            if self.head_filled == self.head.len() {
                self.head_filled = 0;
                let [high, middle, low, kind, flags, ..] = self.head;
                self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.frames = self.frames.wrapping_add(1);
                self.answers |= matches!(kind, DATA | HEADERS);
                if matches!(kind, HEADERS | CONTINUATION) {
                    self.open_head_bytes = match flags & END_HEADERS == 0 {
                        true => self.open_head_bytes + self.payload_left + 1,
                        false => 0,
                    };
                }
                if kind == PING && flags & ACK == 0 {
                    self.pings = self.pings.saturating_add(1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_open_until_their_last_frame() {
        let mut scanner = FrameScanner::default();
        scanner.scan(&[0, 0, 2, 1, 0, 0, 0, 0, 1, 7, 7]);
        assert_eq!((scanner.frames, scanner.open_head_bytes), (1, 3));
        scanner.scan(&[0, 0, 0, 9, 0, 0, 0, 0, 1]);
        assert_eq!((scanner.frames, scanner.open_head_bytes), (2, 4));
        scanner.scan(&[0, 0, 0, 9, 4, 0, 0, 0, 1]);
        assert_eq!((scanner.frames, scanner.open_head_bytes), (3, 0));
    }

    #[test]
    fn pings_are_counted_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        bytes.extend([0, 0, 8, 6, 0, 0, 0, 0, 0]);
        bytes.extend([0x06; 8]); // looks like a ping's type
        bytes.extend([0, 0, 0, 4, 1, 0, 0, 0, 0]);
        bytes.extend([0, 0, 8, 6, 1, 0, 0, 0, 0]); // an ack
        bytes.extend([0; 8]);
        bytes.extend([0, 0, 8, 6, 0, 0, 0, 0, 0]);
        bytes.extend([0; 8]);
        for step in 1..=bytes.len() {
            let mut scanner = FrameScanner::default();
            bytes.chunks(step).for_each(|chunk| scanner.scan(chunk));
            assert_eq!((scanner.pings, scanner.payload_left, scanner.head_filled), (2, 0, 0), "step {step}");
        }
    }
}
