//! `envoy.filters.http.grpc_stats`: outcomes and messages of gRPC calls, counted for the cluster.

use meltemi_traffic::Str;

use crate::counters::Counter;

/// What is known of a call at its end.
#[derive(Debug)]
pub struct Finished<'f> {
    /// Statistics name of the cluster.
    pub cluster: &'f str,
    /// `:path`.
    pub path: &'f [u8],
    /// Every method has its own counters.
    pub by_method: bool,
    /// The call's status, when there was one.
    pub status: Option<u32>,
    /// Messages of request and response.
    pub messages: [u64; 2],
}

/// Counts a finished call.
pub fn count(call: &Finished<'_>) {
    let Some((service, method)) = split(call.path) else {
        return;
    };
    let scope = if call.by_method {
        format!("cluster.{}.grpc.{service}.{method}", call.cluster)
    } else {
        format!("cluster.{}.grpc", call.cluster)
    };
    let add = |name: &str, more: u64| Counter::named(format!("{scope}.{name}")).add(more);
    if let Some(status) = call.status {
        add(&status.to_string(), 1);
        add(if status == 0 { "success" } else { "failure" }, 1);
        add("total", 1);
    }
    add("request_message_count", call.messages[0]);
    add("response_message_count", call.messages[1]);
}

/// `/package.Service/Method`.
fn split(path: &[u8]) -> Option<(Str, Str)> {
    let text = std::str::from_utf8(path).ok()?;
    let text = text.split('?').next()?.strip_prefix('/')?;
    let (service, method) = text.split_once('/')?;
    let fits = !service.is_empty() && !method.is_empty() && !method.contains('/');
    fits.then(|| (service.into(), method.into()))
}
