//! The current certificate of a process, renewed before it expires.
//!
//! One task ([`keep_fresh`]) writes, everybody else reads a [`tokio::sync::watch`] receiver: a reader always has a
//! whole certificate, chain and key from the same request. While the CA cannot be reached the old one stays.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{IdentityError, WorkloadCertificate};

/// Where certificates come from.
pub trait CertificateSource: Send + Sync {
    /// Obtains a new certificate for a new key.
    ///
    /// # Errors
    /// Whatever kept it from being obtained; the caller tries again later.
    fn fetch(&self) -> impl Future<Output = Result<WorkloadCertificate, IdentityError>> + Send;
}

/// Reads the current certificate; `None` until the first one has arrived.
pub type CertificateReader = watch::Receiver<Option<Arc<WorkloadCertificate>>>;

/// Longest pause between attempts while no certificate can be obtained.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// First pause after a failed attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Share of the lifetime that is left when renewal starts (`SECRET_GRACE_PERIOD_RATIO`).
const GRACE_RATIO: f64 = 0.5;
/// Random spread around [`GRACE_RATIO`] so that a fleet does not renew at once (`…_RATIO_JITTER`).
const GRACE_JITTER: f64 = 0.01;

/// A channel for one process's certificate.
#[must_use]
pub fn channel() -> (
    watch::Sender<Option<Arc<WorkloadCertificate>>>,
    CertificateReader,
) {
    watch::channel(None)
}

/// Obtains a certificate and renews it for as long as somebody reads; run it as a task that its owner aborts.
///
/// `jitter` answers numbers in `0.0..1.0`.
pub async fn keep_fresh<S: CertificateSource>(
    source: S,
    sender: watch::Sender<Option<Arc<WorkloadCertificate>>>,
    mut jitter: impl FnMut() -> f64 + Send,
) {
    let mut pause = FIRST_PAUSE;
    while !sender.is_closed() {
        match source.fetch().await {
            Ok(certificate) => {
                pause = FIRST_PAUSE;
                let wait = renewal_delay(&certificate, SystemTime::now(), jitter());
                tracing::info!(
                    renewal_in_s = wait.as_secs(),
                    "workload certificate obtained"
                );
                sender.send_replace(Some(Arc::new(certificate)));
                tokio::time::sleep(wait).await;
            }
            Err(error) => {
                tracing::warn!(%error, retry_in_ms = pause.as_millis(), "no workload certificate");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// Time until renewal: at half of the lifetime, give or take one percent of it.
fn renewal_delay(certificate: &WorkloadCertificate, now: SystemTime, jitter: f64) -> Duration {
    let Ok(facts) = certificate.leaf_facts() else {
        return MAX_PAUSE;
    };
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let not_after = Duration::from_secs(facts.not_after.max(0).unsigned_abs());
    let lifetime = Duration::from_secs((facts.not_after - facts.not_before).max(0).unsigned_abs());
    let grace = (GRACE_RATIO + GRACE_JITTER * (2.0 * jitter - 1.0)).clamp(0.0, 1.0);
    not_after
        .saturating_sub(now)
        .saturating_sub(lifetime.mul_f64(grace))
        .max(FIRST_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        ca::{CertificateAuthority, self_signed_files},
        client::new_request,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    struct Script {
        ca: CertificateAuthority,
        calls: Arc<AtomicUsize>,
        fail_first: usize,
    }

    impl CertificateSource for Script {
        async fn fetch(&self) -> Result<WorkloadCertificate, IdentityError> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            if call < self.fail_first {
                return Err(IdentityError::Request {
                    address: "ca".into(),
                    reason: "down".into(),
                });
            }
            let request = new_request()?;
            let chain = self.ca.sign(
                &request.csr_pem,
                "spiffe://td/ns/a/sa/b",
                HOUR,
                SystemTime::now(),
            )?;
            request.finish(chain)
        }
    }

    fn script(fail_first: usize) -> (Script, Arc<AtomicUsize>) {
        let files = self_signed_files("td", 1000 * HOUR, SystemTime::now()).expect("root");
        let calls = Arc::new(AtomicUsize::new(0));
        let ca = CertificateAuthority::from_files(files).expect("load");
        (
            Script {
                ca,
                calls: Arc::clone(&calls),
                fail_first,
            },
            calls,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_ca_is_asked_again_until_it_answers() {
        let (source, calls) = script(4);
        let (sender, mut reader) = channel();
        let task = tokio::spawn(keep_fresh(source, sender, || 0.5));
        reader
            .wait_for(Option::is_some)
            .await
            .expect("writer lives");
        assert_eq!(calls.load(Ordering::SeqCst), 5);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_renewed_at_half_of_its_life_with_a_new_key() {
        let (source, _) = script(0);
        let (sender, mut reader) = channel();
        let task = tokio::spawn(keep_fresh(source, sender, || 0.5));
        let first = reader
            .wait_for(Option::is_some)
            .await
            .expect("writer lives")
            .clone()
            .expect("some");
        reader.mark_unchanged();
        let started = tokio::time::Instant::now();
        reader.changed().await.expect("renewed");
        let waited = started.elapsed();
        assert!(
            waited > HOUR.mul_f64(0.45) && waited < HOUR.mul_f64(0.55),
            "renewed after {waited:?}"
        );
        let second = reader.borrow().clone().expect("some");
        assert_ne!(first.key_pem, second.key_pem);
        task.abort();
    }
}
