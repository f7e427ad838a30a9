use std::collections::HashMap;

use super::*;

/// A world of named texts; a cluster `c` waits for endpoints `c` unless its text says `static`.
#[derive(Default)]
struct World(BTreeMap<ResourceType, BTreeMap<&'static str, &'static str>>);

impl World {
    fn with(mut self, kind: ResourceType, name: &'static str, text: &'static str) -> Self {
        self.0.entry(kind).or_default().insert(name, text);
        self
    }
}

impl Source for World {
    fn resources(&self, kind: &ResourceType, names: &Names) -> Vec<Arc<Resource>> {
        let wanted = |name: &str| match names {
            Names::All => true,
            Names::Some(names) => names.contains(name),
        };
        let of_kind = self.0.get(kind).into_iter().flatten();
        of_kind
            .filter(|(name, _)| wanted(name))
            .map(|(name, text)| {
                let waits = *kind == ResourceType::Cluster && !text.contains("static");
                Resource::new(*name, *text, waits.then(|| ArcStr::from(*name)))
            })
            .collect()
    }
}

use ResourceType::{Cluster, Endpoint, Listener, Route};

fn ask(names: &[&str]) -> Incoming {
    Incoming {
        subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Incoming::default()
    }
}

fn accept(message: &Outgoing, names: &[&str]) -> Incoming {
    Incoming {
        nonce: message.nonce.clone(),
        ..ask(names)
    }
}

fn names(message: &Outgoing) -> Vec<&str> {
    let mut names: Vec<&str> = message
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

fn kinds(out: &[Outgoing]) -> Vec<ResourceType> {
    out.iter().map(|message| message.kind.clone()).collect()
}

/// A client that has cluster `a`, its endpoints, a route and a listener, and has accepted all of it.
fn settled(protocol: Protocol, world: &World) -> Session {
    let mut session = Session::new(protocol, "s");
    for (kind, names) in [
        (Cluster, &[][..]),
        (Endpoint, &["a"]),
        (Listener, &[]),
        (Route, &["r"]),
    ] {
        let out = session.request(&kind, ask(names), world);
        assert_eq!(out.len(), 1, "{kind} is answered");
        let ack = if protocol == Protocol::Delta {
            accept(&out[0], &[])
        } else {
            accept(&out[0], names)
        };
        assert_eq!(
            session.request(&kind, ack, world),
            [],
            "an acceptance is not answered"
        );
    }
    session
}

fn before() -> World {
    World::default()
        .with(Cluster, "a", "a1")
        .with(Endpoint, "a", "10.0.0.1")
        .with(Route, "r", "to a")
        .with(Listener, "l", "r")
}

fn after() -> World {
    World::default()
        .with(Cluster, "b", "b1")
        .with(Endpoint, "b", "10.0.0.2")
        .with(Route, "r", "to b")
        .with(Listener, "l", "r")
}

#[test]
fn a_route_is_sent_only_after_its_new_cluster_is_warm_and_the_old_cluster_goes_last() {
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        let mut session = settled(protocol, &before());
        let out = session.push(&after());
        assert_eq!(kinds(&out), [Cluster], "{protocol:?}");
        let expected: &[&str] = if protocol == Protocol::Delta {
            &["b"]
        } else {
            &["a", "b"]
        };
        assert_eq!(
            names(&out[0]),
            expected,
            "the old cluster is kept while routes refer to it"
        );
        assert_eq!(out[0].removed, Vec::<ArcStr>::new());

        let subscribed: &[&str] = if protocol == Protocol::Delta {
            &["b"]
        } else {
            &["a", "b"]
        };
        let mut endpoints = ask(subscribed);
        if protocol == Protocol::StateOfTheWorld {
            endpoints.nonce = session.types[&Endpoint].last_nonce.clone().expect("sent");
        }
        let out2 = session.request(&Endpoint, endpoints, &after());
        assert_eq!(kinds(&out2), [Endpoint]);
        assert!(session.is_waiting(), "the cluster is not accepted yet");

        let out3 = session.request(&Cluster, accept(&out[0], &[]), &after());
        assert_eq!(kinds(&out3), [Route, Cluster], "{protocol:?}");
        if protocol == Protocol::Delta {
            assert_eq!(out3[1].removed, [ArcStr::from("a")]);
        } else {
            assert_eq!(names(&out3[1]), ["b"]);
        }
    }
}

#[test]
fn a_push_goes_on_when_the_client_never_asks_for_endpoints() {
    let mut session = settled(Protocol::Delta, &before());
    session.push(&after());
    let out = session.give_up_waiting(&after());
    assert_eq!(kinds(&out), [Route, Cluster]);
    assert!(!session.is_waiting());
}

#[test]
fn nothing_is_sent_when_nothing_differs() {
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        let mut session = settled(protocol, &before());
        assert_eq!(session.push(&before()), []);
        assert!(!session.is_waiting());
    }
}

#[test]
fn endpoints_alone_change_without_anything_else() {
    let mut session = settled(Protocol::Delta, &before());
    let world = before().with(Endpoint, "a", "10.0.0.9");
    let out = session.push(&world);
    assert_eq!(kinds(&out), [Endpoint]);
    assert!(!session.is_waiting());
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again_because_it_warms_again() {
    let mut session = settled(Protocol::Delta, &before());
    let out = session.push(&before().with(Cluster, "a", "a2"));
    assert_eq!(kinds(&out), [Cluster, Endpoint]);
}

#[test]
fn a_refusal_is_recorded_not_answered_and_does_not_block_the_push() {
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        let mut session = settled(protocol, &before());
        let out = session.push(&before().with(Cluster, "a", "a2 static"));
        let refusal = Incoming {
            error: Some("bad field".into()),
            ..accept(&out[0], &[])
        };
        let rest = session.request(&Cluster, refusal, &before());
        assert!(rest.iter().all(|message| message.kind != Listener));
        assert!(!session.is_waiting());
        let (_, status, reason) = session
            .status()
            .find(|(kind, ..)| **kind == Cluster)
            .expect("known");
        if rest.is_empty() {
            assert_eq!(
                (status, reason),
                (SyncStatus::Error, Some("bad field")),
                "{protocol:?}"
            );
        }
    }
}

#[test]
fn a_stale_acceptance_changes_nothing() {
    let mut session = settled(Protocol::StateOfTheWorld, &before());
    let stale = Incoming {
        nonce: "old".into(),
        ..ask(&["r", "q"])
    };
    assert_eq!(session.request(&Route, stale, &before()), []);
    assert_eq!(session.types[&Route].names.len(), 1);
}

#[test]
fn only_added_names_are_answered_and_missing_ones_reported_as_removed() {
    let mut session = settled(Protocol::Delta, &before());
    let out = session.request(&Route, ask(&["nowhere"]), &before());
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].removed, [ArcStr::from("nowhere")]);
    assert!(out[0].resources.is_empty());
}

#[test]
fn a_reconnecting_client_gets_only_what_it_lacks_and_hears_what_is_gone() {
    let world = before();
    let version = |kind: &ResourceType| world.resources(kind, &Names::All)[0].version_text();
    let mut session = Session::new(Protocol::Delta, "s2");
    let known = HashMap::from([
        ("a".to_owned(), version(&Cluster)),
        ("gone".to_owned(), "0".to_owned()),
    ]);
    let out = session.request(
        &Cluster,
        Incoming {
            known,
            ..Incoming::default()
        },
        &world,
    );
    assert_eq!(out[0].removed, [ArcStr::from("gone")]);
    assert!(out[0].resources.is_empty());
}

#[test]
fn a_first_wildcard_request_is_answered_even_when_there_is_nothing() {
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        let mut session = Session::new(protocol, "s");
        let out = session.request(&Listener, ask(&[]), &World::default());
        assert_eq!(
            out.len(),
            1,
            "{protocol:?}: a client must learn that there are no listeners"
        );
    }
}

#[test]
fn unsubscribed_names_are_forgotten() {
    let mut session = settled(Protocol::Delta, &before());
    let drop = Incoming {
        unsubscribe: vec!["r".into()],
        ..Incoming::default()
    };
    assert_eq!(session.request(&Route, drop, &before()), []);
    assert_eq!(session.push(&before().with(Route, "r", "changed")), []);
}
