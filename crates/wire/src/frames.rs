//! Counting HTTP/2 frames as they pass, without holding any (RFC 9113 §4.1).
//!
//! Limits on what a client may make us do for nothing are Envoy's: frames without payload, PRIORITY and WINDOW_UPDATE
//! in proportion to the streams and data that justify them. PING and SETTINGS need no count: the h2 crate reads nothing
//! further before their answer is on its way, so a peer that does not read our answers stops itself.

/// Length, type, flags, stream.
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const FLAG_END_STREAM: u8 = 1;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
}

/// Finds frame heads in a byte stream that comes in pieces.
#[derive(Debug, Default)]
struct Scanner {
    head: [u8; HEADER],
    have: usize,
    payload: usize,
}

impl Scanner {
    /// Calls `each` for every head that ends in these bytes; stops at its first error.
    fn feed<E>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(FrameHead) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                self.payload -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                each(FrameHead {
                    length: self.payload,
                    kind,
                    flags,
                })?;
            }
        }
        Ok(())
    }
}

/// What a peer may send; Envoy's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Frames in a row that have no payload and do not end their stream.
    pub empty_in_a_row: u32,
    /// PRIORITY frames for each stream, and one stream's worth before the first.
    pub priority_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame that we sent.
    pub window_updates_per_data: u32,
}

/// CONTINUATION frames of one head.
const MAX_CONTINUATIONS: u32 = 64;

impl Default for FrameLimits {
    fn default() -> Self {
        Self {
            empty_in_a_row: 1,
            priority_per_stream: 100,
            window_updates_per_data: 10,
        }
    }
}

/// Which limit a peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// Too many frames without payload in a row.
    #[error("too many consecutive frames with an empty payload")]
    Empty,
    /// Too many PRIORITY frames.
    #[error("too many PRIORITY frames")]
    Priority,
    /// Too many WINDOW_UPDATE frames.
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdate,
    /// The first frame is not SETTINGS (RFC 9113 §3.4).
    #[error("the connection does not start with SETTINGS")]
    NoSettings,
    /// Too many CONTINUATION frames.
    #[error("too many CONTINUATION frames")]
    Continuation,
}

/// Counts the frames of one connection.
#[derive(Debug)]
pub struct FrameMeter {
    limits: FrameLimits,
    inbound: Scanner,
    outbound: Scanner,
    settled: bool,
    streams: u64,
    data_out: u64,
    empty: u32,
    continuations: u32,
    priority: u64,
    window_updates: u64,
}

impl FrameMeter {
    /// A meter for a connection whose preface the peer still has to send (`preface` bytes of it are skipped).
    pub fn new(limits: FrameLimits, preface: usize) -> Self {
        Self {
            limits,
            inbound: Scanner {
                payload: preface,
                ..Scanner::default()
            },
            outbound: Scanner::default(),
            settled: false,
            streams: 0,
            data_out: 0,
            empty: 0,
            continuations: 0,
            priority: 0,
            window_updates: 0,
        }
    }

    /// Bytes came from the peer.
    ///
    /// # Errors
    /// The limit that they break; the connection must end.
    pub fn received(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        let mut scanner = std::mem::take(&mut self.inbound);
        let result = scanner.feed(bytes, |frame| self.inbound_frame(frame));
        self.inbound = scanner;
        result
    }

    /// Bytes went to the peer.
    pub fn sent(&mut self, bytes: &[u8]) {
        let data = &mut self.data_out;
        let counted: Result<(), std::convert::Infallible> = self.outbound.feed(bytes, |frame| {
            *data += u64::from(frame.kind == DATA);
            Ok(())
        });
        let Ok(()) = counted;
    }

    fn inbound_frame(&mut self, frame: FrameHead) -> Result<(), Flood> {
        let limits = self.limits;
        if !std::mem::replace(&mut self.settled, true) && frame.kind != SETTINGS {
            return Err(Flood::NoSettings);
        }
        match frame.kind {
            DATA | HEADERS | CONTINUATION => {
                if frame.kind == HEADERS {
                    self.streams += 1;
                    self.continuations = 0;
                } else if frame.kind == CONTINUATION {
                    self.continuations += 1;
                    if self.continuations > MAX_CONTINUATIONS {
                        return Err(Flood::Continuation);
                    }
                }
                let ends = frame.kind != CONTINUATION && frame.flags & FLAG_END_STREAM != 0;
                if frame.length > 0 || ends {
                    self.empty = 0;
                } else {
                    self.empty += 1;
                    if self.empty > limits.empty_in_a_row {
                        return Err(Flood::Empty);
                    }
                }
            }
            PRIORITY => {
                self.priority += 1;
                if self.priority > u64::from(limits.priority_per_stream) * (1 + self.streams) {
                    return Err(Flood::Priority);
                }
            }
            WINDOW_UPDATE => {
                self.window_updates += 1;
                // Envoy's formula, from nghttp2's behaviour.
                let data = u64::from(limits.window_updates_per_data) * self.data_out;
                if self.window_updates > 5 + 2 * (self.streams + data) {
                    return Err(Flood::WindowUpdate);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut out = length.to_be_bytes()[1..].to_vec();
        out.extend([kind, flags, 0, 0, 0, 1]);
        out.extend(payload);
        out
    }

    fn meter() -> FrameMeter {
        let mut meter = FrameMeter::new(FrameLimits::default(), 0);
        meter.received(&frame(SETTINGS, 0, &[])).unwrap();
        meter
    }

    /// How many copies of a frame pass.
    fn passes(meter: &mut FrameMeter, frame: &[u8], most: usize) -> usize {
        (0..most)
            .find(|_| meter.received(frame).is_err())
            .unwrap_or(most)
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let bytes: Vec<u8> = [
            frame(SETTINGS, 0, &[0; 12]),
            frame(HEADERS, 4, &[1; 300]),
            frame(DATA, 0, b"abc"),
            frame(PRIORITY, 0, &[0; 5]),
        ]
        .concat();
        for size in [1, 2, 9, 10, 100, 1000] {
            let mut meter = meter();
            for piece in bytes.chunks(size) {
                meter.received(piece).unwrap();
            }
            let counted = (meter.streams, meter.empty, meter.priority);
            assert_eq!(counted, (1, 0, 1), "pieces of {size}");
        }
    }

    #[test]
    fn the_preface_is_no_frame() {
        let mut meter = FrameMeter::new(FrameLimits::default(), 24);
        meter.received(crate::sniff::HTTP2_PREFACE).unwrap();
        meter.received(&frame(SETTINGS, 0, &[])).unwrap();
        meter.received(&frame(HEADERS, 4, &[1])).unwrap();
        assert_eq!(meter.streams, 1);
        let mut meter = FrameMeter::new(FrameLimits::default(), 0);
        assert_eq!(
            meter.received(&frame(HEADERS, 4, &[1])),
            Err(Flood::NoSettings)
        );
    }

    #[test]
    fn frames_without_payload_are_few() {
        assert_eq!(passes(&mut meter(), &frame(DATA, 0, &[]), 100), 1);
        assert_eq!(passes(&mut meter(), &frame(CONTINUATION, 0, &[]), 100), 1);
        let mut meter = meter();
        for _ in 0..100 {
            meter.received(&frame(DATA, FLAG_END_STREAM, &[])).unwrap();
            meter.received(&frame(DATA, 0, &[])).unwrap();
            meter.received(&frame(DATA, 0, b"x")).unwrap();
        }
    }

    #[test]
    fn priority_and_window_updates_are_in_proportion_to_streams() {
        let priority = frame(PRIORITY, 0, &[0; 5]);
        assert_eq!(passes(&mut meter(), &priority, 1000), 100);
        let mut one = meter();
        one.received(&frame(HEADERS, 4, &[1])).unwrap();
        assert_eq!(passes(&mut one, &priority, 1000), 200);

        let update = frame(WINDOW_UPDATE, 0, &[0; 4]);
        assert_eq!(passes(&mut meter(), &update, 1000), 5);
        let mut one = meter();
        one.received(&frame(HEADERS, 4, &[1])).unwrap();
        one.sent(&frame(DATA, 0, b"answer"));
        assert_eq!(passes(&mut one, &update, 1000), 27);
    }

    #[test]
    fn a_head_in_endless_parts_ends() {
        assert_eq!(
            passes(&mut meter(), &frame(CONTINUATION, 0, b"x"), 1000),
            64
        );
    }
}
