//! Shared vocabulary: interned strings, host names, labels, identities, fixed ports.
//!
//! The lowest tier: it depends on nothing of ours and does no input or output.

pub use arcstr::{self, ArcStr as Str};
