//! The embedded Kubernetes-style API server of the local platform.
//!
//! It serves Kubernetes' HTTP API (discovery, lists, watches, patches, server-side apply, tables,
//! custom resources, admission webhooks, tokens, RBAC) over a durable store, so that `kubectl` and
//! every Kubernetes client library work against it unchanged. It runs no controllers and starts no
//! pods: those live in `node` and talk to this server over its API like any other client.
//!
//! Request path: [`server`] accepts and terminates TLS, [`auth`] names the caller, [`rest`] routes,
//! authorizes and executes, [`admission`] mutates and validates, [`store`] makes it durable and
//! feeds the watches. The remaining modules are pure functions over JSON.

// === Surface: pure functions over JSON ===
pub mod apply;
pub mod crd;
pub mod discovery;
pub mod field;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod rbac;
pub mod schema;
pub mod selector;
pub mod table;
pub mod validate;

// === Core: state, protocol, policy ===
pub mod store;
