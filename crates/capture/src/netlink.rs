//! A small encoder for two netlink families: links, addresses, routes and rules of
//! `NETLINK_ROUTE`, and nf_tables and tracked connections of `NETLINK_NETFILTER`.
//!
//! It never reads state back to compare: callers know what they installed.

pub(crate) mod conntrack;
pub(crate) mod message;
pub(crate) mod nft;
pub(crate) mod route;
mod socket;

pub use socket::NetlinkError;
