//! What the mesh asks of the kernel: links, addresses, routes and nf_tables rules over netlink
//! sockets, namespaces, containers as processes, and the socket options of redirected connections.
//!
//! This is the workspace's only crate with `unsafe` code. It runs no external program and needs
//! nothing installed. It knows neither Kubernetes nor the proxy: callers hand in addresses, mounts
//! and flags and get file descriptors, exit statuses and errors that say what to do.
//!
//! Start order of a process that runs containers (each step before the next):
//!
//! 1. [`privilege::enter`]: still single-threaded; becomes owner of a user namespace when needed;
//! 2. [`spawn::fork_spawner`]: still single-threaded;
//! 3. the asynchronous runtime, then [`spawn::SpawnerHandle::start`];
//! 4. [`preflight::check`];
//! 5. [`pod_network::NodeNetwork::create`] and [`service_rules::ServiceTable::create`];
//! 6. per pod: [`netns::NetNs::create`], [`pod_network::NodeNetwork::attach_pod`],
//!    [`spawn::SpawnerHandle::create_sandbox`], then its containers.
//!
//! When that process dies, however it dies, no process, namespace, link, rule or mount stays.
#![allow(unsafe_code)]

pub mod memory;
pub mod netlink;
pub mod netns;
pub mod original_dst;
pub mod pod_network;
pub mod pod_rules;
pub mod preflight;
pub mod privilege;
pub mod process;
pub mod service_rules;
pub mod socket_options;
pub mod spawn;
