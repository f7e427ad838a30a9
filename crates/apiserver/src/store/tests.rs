//! Store tests: preconditions, snapshots, watches, crashes.

use super::lossy::LossyMedium;
use super::*;
use serde_json::json;

fn resource() -> Arc<str> {
    "/configmaps".into()
}

fn key(name: &str) -> Key {
    Key::new(&resource(), "default", name)
}

fn object(name: &str, n: u64) -> Value {
    json!({"data": {"n": n.to_string()}, "kind": "ConfigMap", "apiVersion": "v1",
           "metadata": {"name": name, "namespace": "default"}})
}

fn open(medium: &LossyMedium, options: StoreOptions) -> Store {
    let medium = medium.clone();
    Store::with_backend(Box::new(move || medium.backend()), options).expect("open")
}

fn fresh() -> Store {
    open(&LossyMedium::new(), StoreOptions::default())
}

#[tokio::test]
async fn writes_stamp_revisions_and_enforce_preconditions() {
    let store = fresh();
    let first = store
        .put(key("a"), Expect::Absent, object("a", 1), None)
        .await
        .expect("create");
    assert_eq!(first.revision, 1);
    assert!(first.json.starts_with(br#"{"apiVersion":"v1","kind":"#));
    assert_eq!(first.value()["metadata"]["resourceVersion"], "1");
    let again = store
        .put(key("a"), Expect::Absent, object("a", 1), None)
        .await;
    assert_eq!(again.unwrap_err(), StoreError::AlreadyExists);
    let second = store
        .put(key("a"), Expect::Revision(1), object("a", 2), None)
        .await
        .expect("update");
    assert_eq!(second.revision, 2);
    let stale = store
        .put(key("a"), Expect::Revision(1), object("a", 3), None)
        .await;
    assert_eq!(stale.unwrap_err(), StoreError::Conflict { current: 2 });
    let guarded = store
        .put(key("b"), Expect::Absent, object("b", 1), Some(key("ns")))
        .await;
    assert_eq!(guarded.unwrap_err(), StoreError::GuardMissing);
    assert_eq!(
        store.delete(key("a"), Some(1)).await.unwrap_err(),
        StoreError::Conflict { current: 2 }
    );
    let last = store.delete(key("a"), None).await.expect("delete");
    assert_eq!(last.value()["metadata"]["resourceVersion"], "3");
    assert!(store.get(&key("a")).is_none());
}

#[tokio::test]
async fn snapshots_of_the_past_are_exact_until_compacted() {
    let store = fresh();
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        store
            .put(key(name), Expect::Absent, object(name, i as u64), None)
            .await
            .expect("create");
    }
    store.delete(key("a"), None).await.expect("delete");
    store
        .put(key("b"), Expect::Revision(2), object("b", 9), None)
        .await
        .expect("update");
    let past = store.list(&resource(), None, Some(3)).expect("past");
    let seen: Vec<_> = past
        .items
        .iter()
        .map(|(k, s)| (k.name.to_string(), s.revision))
        .collect();
    assert_eq!(seen, [("a".into(), 1), ("b".into(), 2), ("c".into(), 3)]);
    store.compact();
    let gone = store.list(&resource(), None, Some(3));
    assert_eq!(gone.unwrap_err(), StoreError::Expired { oldest: 5 });
}

#[tokio::test]
async fn a_watch_resumes_inside_the_window_and_expires_outside() {
    let options = StoreOptions {
        history_events: 3,
        history_bytes: 1 << 20,
    };
    let store = open(&LossyMedium::new(), options);
    for i in 0..5 {
        let name = format!("o{i}");
        store
            .put(key(&name), Expect::Absent, object(&name, i), None)
            .await
            .expect("create");
    }
    let (events, upto) = store.events_after(&resource(), None, 2).expect("resume");
    assert_eq!(
        events.iter().map(|e| e.revision).collect::<Vec<_>>(),
        [3, 4, 5]
    );
    assert_eq!(upto, 5);
    let expired = store.events_after(&resource(), None, 1).unwrap_err();
    assert_eq!(expired, StoreError::Expired { oldest: 2 });
}

#[tokio::test]
async fn subscriptions_wake_for_their_own_resource_only() {
    let store = fresh();
    let mine = store.subscribe(&resource());
    let other = store.subscribe(&"/pods".into());
    store
        .put(key("a"), Expect::Absent, object("a", 1), None)
        .await
        .expect("create");
    assert!(mine.has_changed().expect("open"));
    assert!(!other.has_changed().expect("open"));
    assert_eq!(store.last_change(&resource()), 1);
}

#[tokio::test]
async fn a_failing_disk_refuses_writes_and_hides_them() {
    let medium = LossyMedium::new();
    let store = open(&medium, StoreOptions::default());
    store
        .put(key("kept"), Expect::Absent, object("kept", 1), None)
        .await
        .expect("create");
    medium.fail_after(0);
    let lost = store
        .put(key("lost"), Expect::Absent, object("lost", 1), None)
        .await;
    assert!(matches!(lost, Err(StoreError::Storage { .. })));
    assert!(store.get(&key("lost")).is_none());
    assert!(store.get(&key("kept")).is_some());
}

/// What one writer knows: the last acknowledged state of each of its objects.
#[derive(Default)]
struct Ledger {
    /// `None`: acknowledged as deleted.
    acknowledged: std::collections::HashMap<String, Option<u64>>,
    /// The write whose answer was an error: either outcome is right.
    in_doubt: Option<(String, Option<u64>)>,
}

async fn write_until_it_fails(store: Arc<Store>, writer: usize, seed: u64) -> Ledger {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ledger = Ledger::default();
    for n in 1.. {
        let name = format!("w{writer}-{}", random.u8(0..4));
        let current = store.get(&key(&name)).map(|s| s.revision);
        let (attempt, result) = match current {
            Some(revision) if random.u8(0..3) == 0 => {
                (None, store.delete(key(&name), Some(revision)).await)
            }
            Some(revision) => {
                let put = store.put(
                    key(&name),
                    Expect::Revision(revision),
                    object(&name, n),
                    None,
                );
                (Some(n), put.await)
            }
            None => {
                let put = store.put(key(&name), Expect::Absent, object(&name, n), None);
                (Some(n), put.await)
            }
        };
        match result {
            Ok(_) => ledger.acknowledged.insert(name, attempt),
            Err(StoreError::Storage { .. } | StoreError::Closed) => {
                ledger.in_doubt = Some((name, attempt));
                return ledger;
            }
            Err(other) => panic!("a writer alone on its objects met {other}"),
        };
    }
    ledger
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_two_hundred_crashes_without_page_cache() {
    for run in 0..200u64 {
        let medium = LossyMedium::new();
        let store = Arc::new(open(&medium, StoreOptions::default()));
        medium.fail_after(fastrand::Rng::with_seed(run).u64(20..400));
        let writers: Vec<_> = (0..8)
            .map(|w| {
                tokio::spawn(write_until_it_fails(
                    Arc::clone(&store),
                    w,
                    run * 8 + w as u64,
                ))
            })
            .collect();
        let mut ledgers = Vec::new();
        for writer in writers {
            ledgers.push(writer.await.expect("writer"));
        }
        medium.crash();
        store.close();
        let store = open(&medium, StoreOptions::default());
        let mut highest = 0;
        for ledger in ledgers {
            for (name, expected) in &ledger.acknowledged {
                let found = store.get(&key(name));
                highest = highest.max(found.as_ref().map_or(0, |s| s.revision));
                let found = found.map(|s| {
                    s.value()["data"]["n"]
                        .as_str()
                        .expect("n")
                        .parse()
                        .expect("u64")
                });
                let doubt = ledger.in_doubt.as_ref().filter(|(n, _)| n == name);
                let either = found == *expected || doubt.is_some_and(|(_, d)| found == *d);
                assert!(
                    either,
                    "run {run}: {name} is {found:?}, acknowledged {expected:?}"
                );
            }
        }
        assert!(store.revision() >= highest);
    }
}

#[tokio::test]
async fn a_busy_neighbour_does_not_expire_an_idle_watch() {
    let options = StoreOptions {
        history_events: 3,
        history_bytes: 1 << 20,
    };
    let store = open(&LossyMedium::new(), options);
    store
        .put(key("mine"), Expect::Absent, object("mine", 1), None)
        .await
        .expect("create");
    let other: Arc<str> = "/leases".into();
    for i in 0..10u64 {
        let name = format!("l{i}");
        let key = Key::new(&other, "default", &name);
        store
            .put(key, Expect::Absent, object(&name, i), None)
            .await
            .expect("create");
    }
    let (events, upto) = store.events_after(&resource(), None, 1).expect("resumable");
    assert!(events.is_empty());
    assert_eq!(upto, 11);
}

#[tokio::test]
async fn a_disk_that_recovers_is_used_again_and_old_watches_expire() {
    let medium = LossyMedium::new();
    let store = open(&medium, StoreOptions::default());
    store
        .put(key("a"), Expect::Absent, object("a", 1), None)
        .await
        .expect("create");
    medium.fail_after(0);
    let lost = store
        .put(key("b"), Expect::Absent, object("b", 1), None)
        .await;
    assert!(lost.is_err());
    medium.crash();
    let again = store
        .put(key("b"), Expect::Absent, object("b", 1), None)
        .await
        .expect("the disk is back");
    assert!(again.revision > 2);
    let expired = store.events_after(&resource(), None, 1).unwrap_err();
    assert!(matches!(expired, StoreError::Expired { .. }));
    assert!(store.get(&key("a")).is_some());
}

#[tokio::test]
async fn after_reopening_a_watch_resumes_unless_its_own_resource_changed() {
    let medium = LossyMedium::new();
    let store = open(&medium, StoreOptions::default());
    for name in ["a", "b"] {
        store
            .put(key(name), Expect::Absent, object(name, 1), None)
            .await
            .expect("create");
    }
    let other = Key::new(&"/leases".into(), "default", "l");
    store
        .put(other, Expect::Absent, object("l", 1), None)
        .await
        .expect("create");
    store.close();
    let store = open(&medium, StoreOptions::default());
    let (events, upto) = store
        .events_after(&resource(), None, 2)
        .expect("nothing was missed");
    assert!(events.is_empty());
    assert_eq!(upto, 3);
    let expired = store.events_after(&resource(), None, 1).unwrap_err();
    assert_eq!(expired, StoreError::Expired { oldest: 2 });
}
