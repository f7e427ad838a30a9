//! The arithmetic of a rolling update, and the names of template revisions. Pure.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The label that tells the pods of one template revision from another's.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// How many pods may exist beyond, and may be missing from, the wanted number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slack {
    /// Pods beyond the wanted number.
    pub(super) surge: i32,
    /// Pods that may be unavailable.
    pub(super) unavailable: i32,
}

impl Slack {
    /// Kubernetes' rounding: surge up, unavailable down, and never both zero.
    pub(super) fn new(
        surge: Option<&IntOrString>,
        unavailable: Option<&IntOrString>,
        replicas: i32,
    ) -> Self {
        let surge = scaled(surge, replicas, true);
        let unavailable = scaled(unavailable, replicas, false);
        let unavailable = if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable
        };
        Self {
            surge,
            unavailable: unavailable.min(replicas.max(0)),
        }
    }
}

/// A number or percentage of `total`; 25% when absent.
fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(number)) => (*number).max(0),
        other => {
            let percent = match other {
                Some(IntOrString::String(text)) => text.trim_end_matches('%').parse().unwrap_or(25),
                _ => 25,
            };
            let exact = i64::from(total.max(0)) * i64::from(percent.max(0i32));
            let rounded = if up { (exact + 99) / 100 } else { exact / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// One ReplicaSet of a Deployment, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replicas {
    /// What its spec asks for.
    pub(super) wanted: i32,
    /// Pods that are available.
    pub(super) available: i32,
}

/// The sizes that the new and the old ReplicaSets (oldest first) should have next.
pub(super) fn step(
    replicas: i32,
    slack: Slack,
    new: Replicas,
    old: &[Replicas],
) -> (i32, Vec<i32>) {
    let total = new.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let room = replicas + slack.surge - total;
    let new_size = if new.wanted > replicas {
        replicas
    } else {
        new.wanted + room.clamp(0, (replicas - new.wanted).max(0))
    };
    (
        new_size,
        shrink_old(replicas - slack.unavailable, total, new, old),
    )
}

/// Takes pods away from old sets: first those that are not available anyway, then available ones
/// as far as enough stay available.
fn shrink_old(min_available: i32, total: i32, new: Replicas, old: &[Replicas]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    let new_unavailable = (new.wanted - new.available).max(0);
    let mut removable = total - min_available - new_unavailable;
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (set.wanted - set.available).clamp(0, removable.max(0));
        *size -= unhealthy;
        removable -= unhealthy;
    }
    let available: i32 = new.available + old.iter().map(|set| set.available).sum::<i32>();
    let mut spare = available - min_available;
    for size in &mut sizes {
        let less = (*size).clamp(0, spare.max(0));
        *size -= less;
        spare -= less;
    }
    sizes
}

/// Whether two templates are the same apart from the revision label.
pub(super) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(HASH_LABEL);
    }
    if let Some(meta) = template.metadata.as_mut() {
        meta.creation_timestamp = None;
    }
    template
}

/// The revision name of a template: FNV-1a written with Kubernetes' safe alphabet. Kubernetes hashes
/// Go's memory layout, so the value differs from its, the shape does not.
pub(super) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut text = serde_json::to_vec(&without_hash(template)).unwrap_or_default();
    if collisions > 0 {
        text.extend_from_slice(&collisions.to_le_bytes());
    }
    safe_hash(&text)
}

/// FNV-1a of `bytes` in the alphabet that spells no words.
pub(super) fn safe_hash(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u32 = 0x811c_9dc5;
    for byte in bytes {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn set(wanted: i32, available: i32) -> Replicas {
        Replicas { wanted, available }
    }

    #[test]
    fn percentages_round_as_kubernetes_rounds() {
        let percent = IntOrString::String("25%".to_owned());
        for (replicas, surge, unavailable) in [(1, 1, 0), (3, 1, 0), (4, 1, 1), (10, 3, 2)] {
            let slack = Slack::new(Some(&percent), None, replicas);
            assert_eq!(slack, Slack { surge, unavailable }, "{replicas} replicas");
        }
        let zero = IntOrString::Int(0);
        assert_eq!(
            Slack::new(Some(&zero), Some(&zero), 3),
            Slack {
                surge: 0,
                unavailable: 1
            }
        );
    }

    #[test]
    fn a_first_rollout_starts_everything_at_once() {
        assert_eq!(
            step(
                3,
                Slack {
                    surge: 1,
                    unavailable: 0
                },
                set(0, 0),
                &[]
            ),
            (3, vec![])
        );
    }

    #[test]
    fn the_old_pod_stays_until_the_new_one_is_available() {
        let slack = Slack {
            surge: 1,
            unavailable: 0,
        };
        assert_eq!(step(1, slack, set(0, 0), &[set(1, 1)]), (1, vec![1]));
        assert_eq!(step(1, slack, set(1, 0), &[set(1, 1)]), (1, vec![1]));
        assert_eq!(step(1, slack, set(1, 1), &[set(1, 1)]), (1, vec![0]));
    }

    #[test]
    fn unavailable_old_pods_go_first() {
        let slack = Slack {
            surge: 1,
            unavailable: 1,
        };
        let (new, old) = step(4, slack, set(1, 0), &[set(2, 0), set(2, 2)]);
        assert_eq!((new, old), (1, vec![1, 2]));
    }

    #[test]
    fn never_fewer_than_the_minimum_available_during_a_whole_rollout() {
        let slack = Slack {
            surge: 1,
            unavailable: 0,
        };
        let (mut new, mut old) = (set(0, 0), set(5, 5));
        for _ in 0..40 {
            let (wanted, sizes) = step(5, slack, new, &[old]);
            assert!(wanted + sizes[0] <= 6, "surge");
            old = set(sizes[0], old.available.min(sizes[0]));
            assert!(new.available + old.available >= 5, "availability");
            // Pods of the new set become available one at a time.
            new = set(wanted, (new.available + 1).min(wanted));
        }
        assert_eq!((new.wanted, old.wanted), (5, 0));
    }

    #[test]
    fn the_revision_name_ignores_its_own_label() {
        let mut template = PodTemplateSpec::default();
        let plain = template_hash(&template, 0);
        template.metadata.get_or_insert_default().labels =
            Some([(HASH_LABEL.to_owned(), plain)].into());
        let mut with_empty_labels = template.clone();
        with_empty_labels.metadata.get_or_insert_default().labels = Some(Default::default());
        assert!(same_template(&template, &with_empty_labels));
        assert_eq!(
            template_hash(&template, 0),
            template_hash(&with_empty_labels, 0)
        );
        assert_ne!(template_hash(&template, 1), template_hash(&template, 0));
    }
}
