//! Clusters at run time: hosts, connections, TLS to peers, and the byte streams below both sides of the proxy.
//!
//! Flow of an upstream request: [`manager::ClusterManager::get`] → [`cluster::Cluster`] → [`balance::HostSet`] picks a
//! [`host::Host`] → [`pool::Pools::acquire`] lends a connection → [`exchange::Exchange`] carries the request.
//! The choice itself is maths of `traffic`; this crate holds the state that the maths reads.
//!
//! Never here: routes, listeners, retries, logs. The server side only shares [`stream`], [`http1`], [`http2`], [`tls`] and [`clock`].

pub mod balance;
pub mod breaker;
pub mod clock;
pub mod cluster;
pub mod connect;
pub mod distribution;
pub mod dns_cache;
pub mod exchange;
pub mod gather;
pub mod health;
pub mod host;
pub mod http1;
pub mod http2;
pub mod keepalive;
pub mod manager;
pub mod outlier;
pub mod output;
pub mod pool;
mod resolve;
pub mod stream;
pub mod tls;
pub mod tunnel;
