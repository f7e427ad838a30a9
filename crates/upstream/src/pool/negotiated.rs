//! The protocol that TLS negotiates: what was agreed on decides which pool a new connection belongs to.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::http1::pooled;
use super::waiting::admit_pending;
use super::{Key, Lease, Pools};
use crate::cluster::Cluster;
use crate::connect::ConnectError;
use crate::host::Host;

impl Pools {
    pub(super) async fn acquire_auto(
        self: &Rc<Self>,
        cluster: &Cluster,
        host: &Arc<Host>,
        key: Key,
    ) -> Result<Lease, ConnectError> {
        let pool = self.http2_pool(&key);
        if let Some(conn) = pool.usable() {
            return conn.lend(cluster, &key).map(Lease::Http2);
        }
        if let Some(pooled) = self.take_idle(&key) {
            return self.lend(pooled, cluster, key).map(Lease::Http1);
        }
        let _pending = admit_pending(cluster, &key)?;
        let shared = self.http1_shared(&key);
        loop {
            let Some(slot) = self.slot(cluster, host, &key, &shared) else {
                shared.freed.notified().await;
                if let Some(conn) = pool.usable() {
                    return conn.lend(cluster, &key).map(Lease::Http2);
                }
                if let Some(pooled) = self.take_idle(&key) {
                    return self.lend(pooled, cluster, key).map(Lease::Http1);
                }
                continue;
            };
            let (stream, facts) = self.dial(cluster, host, &key.needs).await?;
            if stream.alpn() == Some(b"h2") {
                cluster.stats.cx_http2.fetch_add(1, Ordering::Relaxed);
                let conn = pool.adopt(stream, facts, slot, cluster, host).await?;
                return conn.lend(cluster, &key).map(Lease::Http2);
            }
            cluster.stats.cx_http1.fetch_add(1, Ordering::Relaxed);
            let pooled = pooled(stream, facts, slot, cluster, host);
            return self.lend(pooled, cluster, key).map(Lease::Http1);
        }
    }
}
