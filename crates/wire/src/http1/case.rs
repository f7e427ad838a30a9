//! Spelling of header names: lower case, `Proper-Case`, or as the peer spelt them (Envoy's `header_key_format`).

use bytes::Bytes;

/// Whether spellings are remembered, and how names are written that the peer did not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepCase {
    /// Not remembered.
    #[default]
    No,
    /// Remembered; new names in lower case.
    NewLower,
    /// Remembered; new names in proper case.
    NewProper,
}

/// How one message spelt its header names; of a name that comes twice, the first spelling counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderCase {
    /// In lower case, sorted, with the spelling.
    names: Vec<(Bytes, Bytes)>,
    new_proper: bool,
}

impl HeaderCase {
    /// Remembers names as they came.
    pub fn new(names: impl Iterator<Item = Bytes>, keep: KeepCase) -> Self {
        let mut names: Vec<(Bytes, Bytes)> = names
            .map(|name| (Bytes::from(name.to_ascii_lowercase()), name))
            .collect();
        // Stable: the first spelling stays in front.
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names.dedup_by(|later, first| later.0 == first.0);
        Self {
            names,
            new_proper: keep == KeepCase::NewProper,
        }
    }

    /// The spelling of a name that the peer sent.
    pub fn spelling(&self, name: &str) -> Option<&[u8]> {
        let found = self
            .names
            .binary_search_by(|(lower, _)| lower.as_ref().cmp(name.as_bytes()));
        found.ok().map(|at| self.names[at].1.as_ref())
    }
}

/// How names are written.
#[derive(Debug, Clone, Copy, Default)]
pub enum Casing<'a> {
    /// As they are held: lower case.
    #[default]
    Lower,
    /// The first letter, and each that follows a byte that is neither letter nor digit, is large.
    Proper,
    /// As the peer spelt them.
    Kept(&'a HeaderCase),
}

impl Casing<'_> {
    /// Writes a name that is held in lower case.
    pub fn write(self, dst: &mut Vec<u8>, name: &str) {
        match self {
            Self::Lower => dst.extend_from_slice(name.as_bytes()),
            Self::Proper => proper(dst, name),
            Self::Kept(case) => match case.spelling(name) {
                Some(spelling) => dst.extend_from_slice(spelling),
                None if case.new_proper => proper(dst, name),
                None => dst.extend_from_slice(name.as_bytes()),
            },
        }
    }
}

fn proper(dst: &mut Vec<u8>, name: &str) {
    let mut starts = true;
    for byte in name.bytes() {
        dst.push(if starts {
            byte.to_ascii_uppercase()
        } else {
            byte
        });
        starts = !byte.is_ascii_alphanumeric();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(case: Casing<'_>, name: &str) -> String {
        let mut dst = Vec::new();
        case.write(&mut dst, name);
        String::from_utf8(dst).unwrap()
    }

    #[test]
    fn words_start_with_a_large_letter() {
        let table = [
            ("content-type", "Content-Type"),
            ("x-b3-traceid", "X-B3-Traceid"),
            ("a_b#c", "A_B#C"),
            ("1a-2b", "1a-2b"),
        ];
        for (name, expected) in table {
            assert_eq!(written(Casing::Proper, name), expected);
        }
    }

    #[test]
    fn the_first_spelling_of_a_name_is_kept() {
        let names = ["X-MyName", "x-myname", "accept", "ACCEPT", "CoNtEnT-Type"];
        let names = names.map(|name| Bytes::from_static(name.as_bytes()));
        let case = HeaderCase::new(names.clone().into_iter(), KeepCase::NewLower);
        assert_eq!(written(Casing::Kept(&case), "x-myname"), "X-MyName");
        assert_eq!(written(Casing::Kept(&case), "content-type"), "CoNtEnT-Type");
        assert_eq!(written(Casing::Kept(&case), "accept"), "accept");
        assert_eq!(written(Casing::Kept(&case), "x-new"), "x-new");
        let case = HeaderCase::new(names.into_iter(), KeepCase::NewProper);
        assert_eq!(written(Casing::Kept(&case), "x-new"), "X-New");
        assert_eq!(written(Casing::Kept(&case), "accept"), "accept");
    }
}
