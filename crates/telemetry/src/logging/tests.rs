use std::sync::Arc;

use parking_lot::Mutex;

use super::{COMPONENTS, Level, Levels, LogError, LogSpec, SCOPES, Target, subscriber};

/// Runs `act` with a log and returns its lines.
fn lines(levels: &str, json: bool, act: impl FnOnce(&super::Handle)) -> Vec<String> {
    let buffer = Arc::new(Mutex::new(Vec::new()));
    let target = Target::Writer(Arc::<Mutex<Vec<u8>>>::clone(&buffer));
    let (subscriber, handle) = subscriber(LogSpec {
        levels: Levels::parse(levels).unwrap(),
        json,
        target,
    });
    tracing::subscriber::with_default(subscriber, || act(&handle));
    let bytes = buffer.lock().clone();
    String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_line_has_istios_columns() {
    let lines = lines("info", false, |_| {
        tracing::info!(target: "meltemi_xds::server", proxy = "sidecar~a", count = 3, why = "two words", "proxy connected");
    });
    let columns: Vec<_> = lines[0].split('\t').collect();
    assert_eq!(
        columns[1..],
        [
            "info",
            "ads",
            "proxy connected",
            "proxy=sidecar~a count=3 why=\"two words\""
        ]
    );
    assert_eq!(
        (columns[0].len(), columns[0].ends_with('Z')),
        ("2026-11-20T13:00:00.000000Z".len(), true)
    );
    assert_eq!(&columns[0][19..20], ".");
}

#[test]
fn json_lines_keep_types() {
    let lines = lines("info", true, |_| {
        let _span = tracing::info_span!(target: "meltemi_node", "pod", pod = "a/b").entered();
        tracing::warn!(target: "meltemi_node", count = 3, ready = false, "pod not ready");
    });
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let got = ["level", "scope", "msg", "count", "ready", "span"].map(|key| line[key].to_string());
    assert_eq!(
        got,
        [
            "\"warn\"",
            "\"node\"",
            "\"pod not ready\"",
            "3",
            "false",
            "\"pod=\\\"a/b\\\"\""
        ]
    );
}

#[test]
fn what_a_peer_sent_cannot_forge_a_line_or_a_column() {
    let lines = lines("info", false, |_| {
        tracing::info!(target: "meltemi_xds", peer = "a\n2026\terror\tads\tforged", "refused\u{1b}[2J");
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].split('\t').count(), 5);
    assert!(!lines[0].contains('\u{1b}'));
}

#[test]
fn errors_are_written_with_their_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("dial 10.0.0.1:80")]
    struct Outer(#[source] std::num::ParseIntError);
    let error = Outer("x".parse::<u8>().unwrap_err());
    let lines = lines("info", false, |_| {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn!(target: "meltemi_kube", error, "not written");
    });
    assert!(
        lines[0].ends_with("error=\"dial 10.0.0.1:80: invalid digit found in string\""),
        "{}",
        lines[0]
    );
}

#[test]
fn fields_of_spans_belong_to_the_line() {
    let lines = lines("debug", false, |_| {
        let _outer = tracing::info_span!(target: "meltemi_proxy", "connection", id = 7).entered();
        tracing::debug!(target: "meltemi_proxy", code = 200, "done");
    });
    assert!(lines[0].ends_with("\tdone\tcode=200 id=7"), "{}", lines[0]);
}

#[test]
fn levels_change_at_run_time() {
    let lines = lines("default:info,ads:error", false, |handle| {
        let log = |text: &str| {
            tracing::info!(target: "meltemi_xds", "{text}");
            tracing::debug!(target: "meltemi_node", "{text}");
        };
        log("1");
        handle.set("ads:info").unwrap();
        log("2");
        handle.set("default:debug").unwrap();
        log("3");
        assert!(handle.set("default:loud").is_err());
        log("4");
        handle.set("all:none").unwrap();
        log("5");
    });
    let short: Vec<_> = lines
        .iter()
        .map(|line| line.rsplitn(3, '\t').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(short, ["2 ads", "3 ads", "3 node", "4 ads", "4 node"]);
}

#[test]
fn libraries_of_others_stay_quiet_unless_they_are_named() {
    let debug = Levels::parse("debug").unwrap();
    assert_eq!(
        (debug.of("meltemi_node::kubelet"), debug.of("hyper::proto")),
        (Level::Debug, Level::Warn)
    );
    assert_eq!(Levels::parse("error").unwrap().of("hyper"), Level::Error);
    assert_eq!(
        Levels::parse("h2:trace").unwrap().of("h2::codec"),
        Level::Trace
    );
    assert_eq!(
        Levels::parse("all:debug").unwrap().of("hyper"),
        Level::Debug
    );
}

#[test]
fn the_data_plane_has_envoys_levels() {
    let levels = Levels::parse("default:info")
        .unwrap()
        .with_proxy("warning", "misc:error,router:debug")
        .unwrap();
    let of = |target| levels.of(target);
    assert_eq!(of("meltemi_proxy::worker"), Level::Warn);
    assert_eq!(of("meltemi_proxy::http::forward::pump"), Level::Debug);
    assert_eq!(of("meltemi_identity::store"), Level::Info);
    let louder = {
        let mut levels = levels;
        levels.apply_proxy(Some("info"), "").unwrap();
        levels
    };
    assert_eq!(louder.of("meltemi_proxy::http::forward"), Level::Info);
}

#[test]
fn the_admin_port_changes_and_lists_loggers() {
    lines("info", false, |handle| {
        let listed = |query: &str| handle.admin(query).map_err(|error| error.to_string());
        assert!(
            listed("level=warning")
                .unwrap()
                .starts_with("active loggers:\n  admin: warning\n")
        );
        assert!(
            listed("router=debug")
                .unwrap()
                .contains("\n  router: debug\n")
        );
        let both = listed("paths=pool:trace,rbac%3Aoff").unwrap();
        assert!(
            both.contains("\n  pool: trace\n") && both.contains("\n  rbac: off\n"),
            "{both}"
        );
        assert!(listed("").unwrap().contains("\n  router: debug\n"));
        assert!(
            listed("routers=debug")
                .unwrap_err()
                .starts_with("log scope \"routers\" is not known; allowed are admin,")
        );
        assert_eq!(
            listed("level").unwrap_err(),
            LogError::Syntax {
                given: "level".into()
            }
            .to_string()
        );
    });
}

#[test]
fn a_wrong_level_names_the_allowed_ones() {
    let message = |result: Result<Levels, LogError>| result.unwrap_err().to_string();
    assert_eq!(
        message(Levels::parse("ads:loud")),
        "log level \"loud\" is not known; allowed are none, error, warn, info, debug, trace"
    );
    assert_eq!(
        message(Levels::default().with_proxy("loud", "")),
        "log level \"loud\" is not known; allowed are trace, debug, info, warning, error, critical, off"
    );
    let unknown = message(Levels::parse("adz:info"));
    assert!(
        unknown
            .starts_with("log scope \"adz\" is not known; allowed are ads, adsc, all, analysis,"),
        "{unknown}"
    );
    assert!(unknown.contains("default"), "{unknown}");
    assert_eq!(
        message(Levels::parse("a:b:c")),
        "log level \"a:b:c\" cannot be read; write LEVEL or SCOPE:LEVEL, several separated by commas"
    );
}

#[test]
fn tables_of_scopes_are_sorted_for_their_error_messages() {
    for table in [SCOPES, COMPONENTS] {
        assert!(table.is_sorted_by(|left, right| left.0.to_lowercase() < right.0.to_lowercase()));
    }
}

#[test]
fn levels_print_as_they_are_set() {
    let levels = Levels::parse("default:warn,ads:debug")
        .unwrap()
        .with_proxy("warning", "")
        .unwrap();
    assert_eq!(levels.to_string(), "default:warn,proxy:warn,ads:debug");
}
