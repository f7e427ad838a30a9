//! Messages that Istio defines itself and no public crate carries.

pub mod ca;
pub mod filters;
pub mod nds;
