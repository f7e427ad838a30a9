//! A small encoder for two netlink families: links, addresses, routes and rules of
//! `NETLINK_ROUTE` ([`route`]) and nf_tables of `NETLINK_NETFILTER` ([`nft`]).
//!
//! It never reads state back to compare: callers know what they installed.

pub mod message;
pub mod nft;
pub mod route;
pub mod socket;

pub use socket::NetlinkError;
