//! Messages that Istio defines itself and no public crate carries.

pub mod ca;
