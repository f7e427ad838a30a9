//! Counting gRPC messages in a body as it passes (each has a prefix of five bytes: a flag and a length).

/// Counts messages of one direction; feed it every byte in order.
#[derive(Debug, Default, Clone, Copy)]
pub struct MessageCounter {
    prefix: [u8; 5],
    have: u8,
    left: u32,
    messages: u64,
}

impl MessageCounter {
    /// Looks at the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skip = bytes.len().min(self.left as usize);
                self.left -= skip as u32;
                bytes = &bytes[skip..];
                continue;
            }
            self.prefix[usize::from(self.have)] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have == 5 {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length);
                self.have = 0;
                self.messages += 1;
            }
        }
    }

    /// Messages that have begun so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_the_body_is_cut() {
        let body = [
            &[0, 0, 0, 0, 3][..],
            b"abc",
            &[0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 1],
            b"x",
        ]
        .concat();
        for step in 1..body.len() {
            let mut counter = MessageCounter::default();
            body.chunks(step).for_each(|part| counter.feed(part));
            assert_eq!(counter.messages(), 3, "step {step}");
        }
    }
}
