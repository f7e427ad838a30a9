//! One netlink socket: send, and wait for the answer with a deadline.

/// Why the kernel refused a netlink request.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}{}", .detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct NetlinkError {
    /// What was asked, in words ("create veth v2").
    pub operation: String,
    /// The kernel's own words, when it sent some.
    pub detail: Option<String>,
    /// The error number.
    pub source: std::io::Error,
}

impl NetlinkError {
    /// The raw error number (`EEXIST`, `ENOENT`, ...).
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}
