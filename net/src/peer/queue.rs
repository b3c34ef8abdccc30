//! What waits for a member's streams. Two answers to "full": raft repeats what the control stream loses, so there the
//! least useful frame goes; a log frame is large and its caller can wait, so there the caller is told.

use super::frame::{Frame, FrameKind};
use std::collections::VecDeque;

/// Frames for a control stream.
#[derive(Debug)]
pub struct ControlQueue {
    frames: VecDeque<Frame>,
    bytes: usize,
    frames_max: usize,
    bytes_max: usize,
    dropped: u64,
}

impl ControlQueue {
    /// An empty queue with its bounds, in frames and bytes of payload.
    #[must_use]
    pub fn new(frames_max: usize, bytes_max: usize) -> Self {
        ControlQueue { frames: VecDeque::new(), bytes: 0, frames_max, bytes_max, dropped: 0 }
    }

    /// Adds a frame and drops others until it fits: the oldest heartbeat that a later one of its group replaces, then the
    /// oldest heartbeat, then the oldest frame.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.payload.len();
        self.frames.push_back(frame);
        while self.frames.len() > self.frames_max.max(1) || (self.bytes > self.bytes_max && self.frames.len() > 1) {
            let at = self.superseded().or_else(|| self.heartbeat()).unwrap_or(0);
            let dropped = self.frames.remove(at).expect("found there");
            self.bytes -= dropped.payload.len();
            self.dropped += 1;
        }
    }

    fn superseded(&self) -> Option<usize> {
        let replaces = |at: usize, frame: &Frame| {
            self.frames
                .iter()
                .skip(at + 1)
                .any(|later| later.kind == FrameKind::Heartbeat && later.group == frame.group)
        };
        let mut frames = self.frames.iter().enumerate();
        frames.find(|(at, frame)| frame.kind == FrameKind::Heartbeat && replaces(*at, frame)).map(|(at, _)| at)
    }

    /// The oldest but for the newest frame.
    fn heartbeat(&self) -> Option<usize> {
        let older = self.frames.len().saturating_sub(1);
        self.frames.iter().take(older).position(|frame| frame.kind == FrameKind::Heartbeat)
    }

    /// The oldest frame.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.payload.len();
        Some(frame)
    }

    /// Forgets what waits: its connection has gone.
    pub fn clear(&mut self) {
        self.dropped += self.frames.len() as u64;
        self.frames.clear();
        self.bytes = 0;
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames and their bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.frames.len(), self.bytes)
    }

    /// Frames that were never sent.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Frames for a log stream, in their order, none left out.
#[derive(Debug)]
pub struct LogQueue {
    frames: VecDeque<Frame>,
    bytes: usize,
    frames_max: usize,
    bytes_max: usize,
}

/// There is no room; the frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl LogQueue {
    /// An empty queue with its bounds, in frames and bytes of payload. A frame fits into an empty queue whatever its size.
    #[must_use]
    pub fn new(frames_max: usize, bytes_max: usize) -> Self {
        LogQueue { frames: VecDeque::new(), bytes: 0, frames_max, bytes_max }
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// If there is no room.
    pub fn push(&mut self, frame: Frame) -> Result<(), Busy> {
        let fits = self.frames.len() < self.frames_max && self.bytes + frame.payload.len() <= self.bytes_max;
        if !fits && !self.frames.is_empty() {
            return Err(Busy);
        }
        self.bytes += frame.payload.len();
        self.frames.push_back(frame);
        Ok(())
    }

    /// The oldest frame.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.payload.len();
        Some(frame)
    }

    /// Forgets what waits: its connection has gone.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames and their bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.frames.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn frame(kind: FrameKind, group: u64, text: &'static str) -> Frame {
        Frame { kind, group, payload: Bytes::from_static(text.as_bytes()) }
    }

    fn texts(queue: &mut ControlQueue) -> String {
        let frames: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let texts: Vec<_> = frames.iter().map(|frame| std::str::from_utf8(&frame.payload).expect("text")).collect();
        texts.join(" ")
    }

    #[test]
    fn a_full_control_queue_drops_what_is_least_useful() {
        use FrameKind::{Control, Heartbeat};
        let mut queue = ControlQueue::new(4, 100);
        for (kind, group, text) in
            [(Control, 1, "v1"), (Heartbeat, 2, "b1"), (Heartbeat, 1, "a1"), (Heartbeat, 1, "a2"), (Control, 1, "v2")]
        {
            queue.push(frame(kind, group, text));
        }
        assert_eq!((texts(&mut queue), queue.dropped()), ("v1 b1 a2 v2".into(), 1), "the superseded one");
        for (kind, group, text) in
            [(Control, 1, "v1"), (Heartbeat, 2, "b1"), (Heartbeat, 1, "a1"), (Control, 1, "v2"), (Control, 1, "v3")]
        {
            queue.push(frame(kind, group, text));
        }
        assert_eq!((texts(&mut queue), queue.dropped()), ("v1 a1 v2 v3".into(), 2), "the oldest heartbeat");
        for text in ["v1", "v2", "v3", "v4", "v5"] {
            queue.push(frame(Control, 1, text));
        }
        assert_eq!((texts(&mut queue), queue.dropped()), ("v2 v3 v4 v5".into(), 3), "the oldest");
        let mut queue = ControlQueue::new(100, 5);
        for text in ["v1", "v2", "v3"] {
            queue.push(frame(Control, 1, text));
        }
        assert_eq!(queue.waiting(), (2, 4));
        queue.push(frame(Control, 1, "longer than all"));
        assert_eq!((texts(&mut queue), queue.waiting()), ("longer than all".into(), (0, 0)));
    }

    #[test]
    fn a_full_log_queue_says_so() {
        let mut queue = LogQueue::new(3, 5);
        assert_eq!(queue.push(frame(FrameKind::Log, 1, "longer than all")), Ok(()));
        assert_eq!(queue.push(frame(FrameKind::Log, 1, "")), Err(Busy));
        assert!(queue.pop().is_some());
        for _ in 0..2 {
            assert_eq!(queue.push(frame(FrameKind::Log, 1, "ab")), Ok(()));
        }
        assert_eq!(queue.push(frame(FrameKind::Log, 1, "ab")), Err(Busy), "bytes");
        assert_eq!(queue.push(frame(FrameKind::Log, 1, "a")), Ok(()));
        assert_eq!(queue.push(frame(FrameKind::Log, 1, "")), Err(Busy), "frames");
        assert_eq!(queue.waiting(), (3, 5));
    }
}
