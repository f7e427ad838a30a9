use meltemi_upstream::connect::SocketDefaults;

use super::*;
use crate::state::NodeIdentity;

fn ask(shared: &Arc<Shared>, method: Method, path: &str) -> (StatusCode, String) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let answer = answer(shared, &Dump::default(), &method, path, query);
    (
        answer.status,
        String::from_utf8_lossy(&answer.body).into_owned(),
    )
}

fn shared() -> Arc<Shared> {
    Shared::new(
        NodeIdentity::default(),
        crate::state::ProcessFacts::default(),
        SocketDefaults::default(),
        1,
    )
}

#[test]
fn readiness_follows_configuration_and_drain() {
    let shared = shared();
    assert_eq!(
        ask(&shared, Method::GET, "/ready"),
        (StatusCode::SERVICE_UNAVAILABLE, "PRE_INITIALIZING\n".into())
    );
    shared.live.store(true, Ordering::Release);
    assert_eq!(
        ask(&shared, Method::GET, "/ready"),
        (StatusCode::OK, "LIVE\n".into())
    );
    assert_eq!(
        ask(&shared, Method::POST, "/drain_listeners").0,
        StatusCode::OK
    );
    // Who stops to accept still answers what was accepted.
    assert_eq!(ask(&shared, Method::GET, "/ready").0, StatusCode::OK);
    assert_eq!(
        ask(&shared, Method::POST, "/quitquitquit").0,
        StatusCode::OK
    );
    assert_eq!(
        ask(&shared, Method::GET, "/ready").0,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[test]
fn what_changes_something_wants_post() {
    let shared = shared();
    for path in ["/quitquitquit", "/drain_listeners", "/logging"] {
        assert_eq!(
            ask(&shared, Method::GET, path).0,
            StatusCode::METHOD_NOT_ALLOWED,
            "{path}"
        );
    }
    assert_eq!(
        ask(&shared, Method::GET, "/nothing").0,
        StatusCode::NOT_FOUND
    );
}

#[test]
fn statistics_come_as_text_and_for_prometheus() {
    let shared = shared();
    let (_, text) = ask(&shared, Method::GET, "/stats?filter=server.");
    assert!(
        text.contains("server.live: 0\n") && !text.contains("cluster_manager"),
        "{text}"
    );
    let (_, text) = ask(&shared, Method::GET, "/stats/prometheus");
    assert!(
        text.contains("envoy_cluster_manager_active_clusters{} 0"),
        "{text}"
    );
    assert!(text.contains("istio_build{component=\"proxy\""), "{text}");
}

#[test]
fn every_dump_section_is_there() {
    let (status, text) = ask(&shared(), Method::GET, "/config_dump?include_eds");
    assert_eq!(status, StatusCode::OK);
    for section in [
        "Bootstrap",
        "Clusters",
        "Endpoints",
        "Listeners",
        "Routes",
        "Secrets",
    ] {
        assert!(
            text.contains(&format!(
                "type.googleapis.com/envoy.admin.v3.{section}ConfigDump"
            )),
            "{section}"
        );
    }
}
