//! Random choices from a seed.

use serde_json::{Value, json};

/// Where choices come from.
pub(super) struct Draw(fastrand::Rng);

impl Draw {
    /// The same seed gives the same choices.
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A number below a bound.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound)
    }

    /// True so many times in a hundred.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub(super) fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// A list of up to so many, each made anew.
    pub(super) fn list(&mut self, most: usize, make: impl Fn(&mut Self) -> Value) -> Value {
        let count = self.below(most + 1);
        json!((0..count).map(|_| make(self)).collect::<Vec<_>>())
    }

    /// A path segment.
    pub(super) fn segment(&mut self) -> &'static str {
        self.one(&["a", "b", "ab", "A", "a.b", "a-b", "1", "12", "a%20b"])
    }

    /// A path of one to three segments.
    pub(super) fn path(&mut self) -> String {
        let count = 1 + self.below(3);
        let mut path = String::new();
        for _ in 0..count {
            path.push('/');
            path.push_str(self.segment());
        }
        path
    }

    /// A field of requests and rules.
    pub(super) fn field(&mut self) -> &'static str {
        self.one(&["x-a", "x-b", "x-c"])
    }

    /// A value.
    pub(super) fn value(&mut self) -> &'static str {
        self.one(&["1", "12", "-5", "a", "abc", "ABC", "a,b", "a b"])
    }
}
