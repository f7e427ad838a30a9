//! Wire messages: Envoy's xDS types re-exported, and Istio's own.

pub mod istio;
