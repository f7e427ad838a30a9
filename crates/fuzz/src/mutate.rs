//! A seeded mutator: input `n` of a seed is always the same bytes.

/// Largest input; parsers have smaller limits of their own.
const MAX_INPUT: usize = 128 * 1024;
/// Pieces that mean something to one of the parsers.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"transfer-encoding: chunked\r\n",
    b"content-length: 18446744073709551616\r\n",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"PROXY TCP4 ",
    b"\x16\x03\x01",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\"@type\": ",
    b"{",
    b"}",
    b"[",
    b"null",
    b"-1",
    b"1e400",
    b"999999999999999999999s",
    b"\xf0\x9f\x92\xa9",
];

/// Makes inputs from a corpus.
#[derive(Debug)]
pub struct Mutator {
    corpus: Vec<Vec<u8>>,
    seed: u64,
}

impl Mutator {
    /// Over this corpus; an empty one stands for the empty input.
    pub fn new(mut corpus: Vec<Vec<u8>>, seed: u64) -> Self {
        if corpus.is_empty() {
            corpus.push(Vec::new());
        }
        Self { corpus, seed }
    }

    /// The input with this number; the first ones are the corpus itself.
    pub fn input(&self, number: u64) -> Vec<u8> {
        if let Some(plain) = usize::try_from(number)
            .ok()
            .and_then(|at| self.corpus.get(at))
        {
            return plain.clone();
        }
        let mut random =
            fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bytes = self.pick(&mut random).to_vec();
        for _ in 0..random.usize(1..=6) {
            self.change(&mut bytes, &mut random);
        }
        bytes.truncate(MAX_INPUT);
        bytes
    }

    fn pick(&self, random: &mut fastrand::Rng) -> &[u8] {
        &self.corpus[random.usize(..self.corpus.len())]
    }

    fn change(&self, bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
        let at = random.usize(..=bytes.len());
        let end = random.usize(at..=bytes.len().min(at + 64));
        match random.u8(..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 if at < bytes.len() => {
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b' '][random.usize(..8)];
            }
            2 => bytes.insert(at, random.u8(..)),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let word = WORDS[random.usize(..WORDS.len())];
                bytes.splice(at..end, word.iter().copied());
            }
            6 => {
                let other = self.pick(random);
                let from = random.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            7 => bytes.truncate(at),
            8 => {
                let times = random.usize(1..200);
                let piece = bytes[at..end].repeat(times);
                bytes.splice(at..at, piece);
            }
            _ => {}
        }
    }
}
