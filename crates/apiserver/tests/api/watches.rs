//! Lists and watches: snapshots, selectors, resumption, expiry.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::requests::{CONFIG_MAPS, config_map, create, revision};
use crate::support::{Client, Server};
use meltemi_apiserver::store::StoreOptions;

#[tokio::test]
async fn lists_continue_on_one_snapshot_and_expire_after_compaction() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b", "c", "d"]).await;
    let first = client
        .ok("GET", &format!("{CONFIG_MAPS}?limit=2"), None)
        .await;
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let token = first["metadata"]["continue"]
        .as_str()
        .expect("token")
        .to_owned();
    client.ok("DELETE", &format!("{CONFIG_MAPS}/c"), None).await;
    create(&mut client, &["cc"]).await;
    let second = client
        .ok(
            "GET",
            &format!("{CONFIG_MAPS}?limit=9&continue={token}"),
            None,
        )
        .await;
    let names: Vec<_> = second["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|i| i["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(
        first["metadata"]["resourceVersion"],
        second["metadata"]["resourceVersion"]
    );
    server.running.api().store.compact();
    let (code, status) = client
        .refused(
            "GET",
            &format!("{CONFIG_MAPS}?limit=9&continue={token}"),
            None,
        )
        .await;
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")));
    let fresh = status["metadata"]["continue"]
        .as_str()
        .expect("a new token");
    let rest = client
        .ok("GET", &format!("{CONFIG_MAPS}?continue={fresh}"), None)
        .await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "cc");
}

#[tokio::test]
async fn selectors_choose_in_lists_and_watches() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b"]).await;
    let list = client
        .ok("GET", &format!("{CONFIG_MAPS}?labelSelector=app%3Da"), None)
        .await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let list = client
        .ok(
            "GET",
            &format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Db"),
            None,
        )
        .await;
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
    let path = format!("{CONFIG_MAPS}?watch=true&labelSelector=app%3Da");
    let mut watch = client.watch(&path).await;
    assert_eq!(watch.summary().await, "ADDED a");
    let out = json!({"metadata": {"labels": {"app": "z"}}});
    client
        .ok("PATCH", &format!("{CONFIG_MAPS}/a"), Some(&out))
        .await;
    assert_eq!(watch.summary().await, "DELETED a");
    let back = json!({"metadata": {"labels": {"app": "a"}}});
    client
        .ok("PATCH", &format!("{CONFIG_MAPS}/b"), Some(&back))
        .await;
    assert_eq!(watch.summary().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_resumes_from_its_revision_or_gets_410() {
    let server = Server::with(|config| {
        config.store = StoreOptions {
            history_events: 4,
            ..StoreOptions::default()
        };
    })
    .await;
    let mut client = server.client().await;
    let created = create(&mut client, &["a", "b"]).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&resourceVersion={}",
        revision(&created[0])
    );
    let mut watch = client.watch(&path).await;
    assert_eq!(watch.summary().await, "ADDED b");
    client.ok("DELETE", &format!("{CONFIG_MAPS}/b"), None).await;
    assert_eq!(watch.summary().await, "DELETED b");
    create(&mut client, &["c", "d", "e", "f", "g"]).await;
    let mut late = client.watch(&path).await;
    let event = late.next().await.expect("an event");
    assert_eq!(
        (event["type"].as_str(), event["object"]["code"].as_u64()),
        (Some("ERROR"), Some(410))
    );
    assert!(late.next().await.is_none());
}

#[tokio::test]
async fn a_watch_list_ends_its_initial_events_with_a_bookmark() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b"]).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = client.watch(&path).await;
    assert_eq!(watch.summary().await, "ADDED a");
    assert_eq!(watch.summary().await, "ADDED b");
    let bookmark = watch.next().await.expect("bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    create(&mut client, &["c"]).await;
    assert_eq!(watch.summary().await, "ADDED c");
    let alone = format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true");
    assert_eq!(client.refused("GET", &alone, None).await.0, 422);
}

#[tokio::test]
async fn after_a_restart_a_watch_resumes_from_now_and_expires_from_before() {
    let state = tempfile::tempdir().expect("tempdir");
    let config = meltemi_apiserver::Config::new(state.path(), 0);
    let running = meltemi_apiserver::start(config.clone())
        .await
        .expect("start");
    let mut client = Client::from_state(state.path()).await.expect("connect");
    let made = create(&mut client, &["a", "b"]).await;
    drop(client);
    running.stop().await;
    let running = meltemi_apiserver::start(config).await.expect("start again");
    let mut client = Client::from_state(state.path()).await.expect("connect");
    let from = |object: &Value| {
        format!(
            "{CONFIG_MAPS}?watch=true&resourceVersion={}",
            revision(object)
        )
    };
    let mut current = client.watch(&from(&made[1])).await;
    let mut old = client.watch(&from(&made[0])).await;
    create(&mut client, &["c"]).await;
    assert_eq!(current.summary().await, "ADDED c");
    let event = old.next().await.expect("an event");
    assert_eq!(event["object"]["reason"], "Expired");
    drop(client);
    running.stop().await;
}

/// Applies an event to what the watcher believes.
fn follow(seen: &mut HashMap<String, String>, event: &Value) {
    let object = &event["object"];
    let name = object["metadata"]["name"]
        .as_str()
        .expect("name")
        .to_owned();
    match event["type"].as_str() {
        Some("ADDED") => assert!(seen.insert(name, revision(object)).is_none(), "added twice"),
        Some("MODIFIED") => assert!(
            seen.insert(name, revision(object)).is_some(),
            "modified before added"
        ),
        Some("DELETED") => assert!(seen.remove(&name).is_some(), "deleted before added"),
        other => panic!("{other:?}: {object}"),
    }
}

async fn write_randomly(mut client: Client, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let name = format!("o{}", random.u8(0..6));
        let path = format!("{CONFIG_MAPS}/{name}");
        let group = if random.bool() { "in" } else { "out" };
        let change = json!({"metadata": {"labels": {"group": group}}, "data": {"n": random.u32(..).to_string()}});
        // Refusals are part of it: writers meet on the same objects.
        match random.u8(0..4) {
            0 => client.send("DELETE", &path, None).await,
            1 => {
                client
                    .send("POST", CONFIG_MAPS, Some(&config_map(&name)))
                    .await
            }
            _ => client.send("PATCH", &path, Some(&change)).await,
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_replay_exactly_what_lists_show() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let selectors = ["", "&labelSelector=group%3Din"];
    let mut watches = Vec::new();
    for selector in selectors {
        watches.push(
            client
                .watch(&format!(
                    "{CONFIG_MAPS}?watch=true&resourceVersion=0{selector}"
                ))
                .await,
        );
    }
    let mut writers = Vec::new();
    for seed in 0..4 {
        writers.push(tokio::spawn(write_randomly(server.client().await, seed)));
    }
    for writer in writers {
        writer.await.expect("writer");
    }
    let mut last = config_map("the-last");
    last["metadata"]["labels"] = json!({"group": "in"});
    client.ok("POST", CONFIG_MAPS, Some(&last)).await;
    for (selector, watch) in selectors.iter().zip(&mut watches) {
        let mut seen = HashMap::new();
        while !seen.contains_key("the-last") {
            follow(&mut seen, &watch.next().await.expect("an event"));
        }
        let list = client
            .ok("GET", &format!("{CONFIG_MAPS}?x=y{selector}"), None)
            .await;
        let listed: HashMap<String, String> = list["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|o| {
                (
                    o["metadata"]["name"].as_str().expect("name").to_owned(),
                    revision(o),
                )
            })
            .collect();
        assert_eq!(seen, listed, "selector {selector:?}");
    }
}
