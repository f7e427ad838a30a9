//! Runs one hot path of the proxy a number of times, to be counted from outside: `hot_paths decode 2000`.
//!
//! `cargo xtask bench proxy` counts the instructions of two runs of different length; the difference is what the path
//! itself costs, without start and configuration.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use meltemi_compile::{listener, route_table};
use meltemi_proto::json;
use meltemi_traffic::balance::{self, Balancer, HostFacts, PickContext, PickState};
use meltemi_traffic::chain::ConnectionFacts;
use meltemi_traffic::cluster::{LbCommon, LbPolicy, LeastRequest};
use meltemi_traffic::endpoint::Health;
use meltemi_traffic::hcm::HttpFilterKind;
use meltemi_traffic::headers::SimpleRequest;
use meltemi_traffic::listener::Terminal;
use meltemi_traffic::metadata::Metadata;
use meltemi_traffic::rbac::{AuthzFacts, Rules};
use meltemi_traffic::select::RouteFacts;
use meltemi_wire::http1::case::Casing;
use meltemi_wire::http1::encode::{self, ResponseBody};
use meltemi_wire::http1::head::{HeadDecoder, HeadLimits};
use meltemi_wire::http1::{Framing, Version};
use prost::{Message, Name};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// Virtual hosts of the route table.
const VIRTUAL_HOSTS: usize = 1000;
/// Policies of the access control; only the last one matches.
const POLICIES: usize = 100;
/// Hosts of the cluster.
const HOSTS: usize = 100;
/// What an application in a mesh sends.
const REQUEST: &[u8] = b"GET /api/v1/products/0/reviews HTTP/1.1\r\nhost: svc-500.ns-0.svc.cluster.local\r\n\
    user-agent: python-requests/2.31.0\r\naccept: */*\r\naccept-encoding: gzip, deflate\r\n\
    x-request-id: 6f1c3a52-8f0e-4f43-9d0c-3d0c4c6b7a10\r\nx-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7\r\n\
    x-b3-spanid: e457b5a2e4d86bd1\r\nx-b3-sampled: 1\r\nend-user: jason\r\n\r\n";

fn read<M: Message + Name + Default>(value: &Value) -> Result<M, Failure> {
    Ok(json::parse(value)?)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which path?")?;
    let count: usize = arguments.next().ok_or("how often?")?.parse()?;
    match path.as_str() {
        "decode" => decode(count),
        "match" => select(count),
        "rbac" => authorize(count),
        "pick" => pick(count),
        "encode" => write(count),
        other => {
            Err(format!("no path {other}; there are decode, match, rbac, pick, encode").into())
        }
    }
}

/// Reads a request head.
fn decode(count: usize) -> Result<(), Failure> {
    let limits = HeadLimits {
        max_bytes: 60 * 1024,
        max_headers: 100,
        ..HeadLimits::default()
    };
    let mut decoder = HeadDecoder::default();
    for _ in 0..count {
        let mut bytes = BytesMut::from(REQUEST);
        black_box(decoder.request(&mut bytes, &limits)?);
    }
    Ok(())
}

/// Finds the route among many virtual hosts.
fn select(count: usize) -> Result<(), Failure> {
    let hosts: Vec<Value> = (0..VIRTUAL_HOSTS)
        .map(|number| {
            let name = format!("svc-{number}.ns-{}", number % 100);
            json!({ "name": format!("{name}:80"),
                "domains": [format!("{name}.svc.cluster.local"), format!("{name}.svc"), name],
                "routes": [{ "match": { "prefix": "/", "headers": [{ "name": "end-user", "string_match": { "exact": "nobody" } }] },
                             "route": { "cluster": "a" } },
                           { "match": { "safe_regex": { "regex": "/api/v[0-9]+/none/[0-9]+" } }, "route": { "cluster": "b" } },
                           { "match": { "prefix": "/" }, "route": { "cluster": "c" } }] })
        })
        .collect();
    let table = route_table(&read(&json!({ "name": "80", "virtual_hosts": hosts }))?)?;
    let request = SimpleRequest::get(
        "svc-500.ns-0.svc.cluster.local",
        "/api/v1/products/0/reviews",
    )
    .with("end-user", "jason");
    for _ in 0..count {
        black_box(table.select(black_box(&request), &RouteFacts::default()));
    }
    Ok(())
}

/// Judges a request by many policies.
fn authorize(count: usize) -> Result<(), Failure> {
    let policies: serde_json::Map<String, Value> = (0..POLICIES)
        .map(|number| {
            let policy = json!({
                "permissions": [{ "and_rules": { "rules": [
                    { "or_rules": { "rules": [{ "header": { "name": ":method", "string_match": { "exact": "GET" } } }] } },
                    { "or_rules": { "rules": [{ "url_path": { "path": { "prefix": format!("/api/v{}/", POLICIES - number) } } }] } }] } }],
                "principals": [{ "any": true }] });
            (format!("ns[default]-policy[p-{number:03}]-rule[0]"), policy)
        })
        .collect();
    let filter = json!({ "name": "rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": { "action": "ALLOW", "policies": policies } } });
    let rules = rules_of(&filter)?;
    let request = SimpleRequest::get("reviews", "/api/v1/products/0/reviews");
    let address = SocketAddr::from(([10, 0, 0, 1], 9080));
    let connection = ConnectionFacts {
        local: address,
        remote: address,
        direct_remote: address,
        transport: "tls",
        server_name: "",
        application_protocols: &[],
    };
    let facts = AuthzFacts {
        request: Some(&request),
        connection: &connection,
        remote_ip: address.ip(),
        tls: false,
        peer: None,
        metadata: None,
        filter_state: &[],
    };
    if !rules.judge(&facts).allowed {
        return Err("the last policy allows the request".into());
    }
    for _ in 0..count {
        black_box(rules.judge(black_box(&facts)));
    }
    Ok(())
}

/// Compiles a listener around one filter and takes its rules out.
fn rules_of(filter: &Value) -> Result<Rules, Failure> {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "a",
        "route_config": { "name": "a" },
        "http_filters": [filter, { "name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] });
    let compiled = listener(&read(&json!({
        "name": "a",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 1 } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": manager }] }] }))?)?;
    let chain = compiled.chains.first().ok_or("the listener has a chain")?;
    let Terminal::Http(manager) = &chain.terminal else {
        return Err("the chain speaks HTTP".into());
    };
    let rules = manager
        .filters
        .iter()
        .find_map(|filter| match &filter.kind {
            HttpFilterKind::Rbac(rbac) => rbac.rules.clone(),
            _ => None,
        });
    Ok(rules.ok_or("the filter has rules")?)
}

/// Picks a host by least requests.
fn pick(count: usize) -> Result<(), Failure> {
    let keys: Vec<String> = (0..HOSTS)
        .map(|number| format!("10.0.0.{number}:80"))
        .collect();
    let metadata = Metadata::default();
    let hosts: Vec<HostFacts<'_>> = keys
        .iter()
        .map(|key| HostFacts {
            key,
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            locality: 0,
            locality_weight: None,
            excluded: false,
            metadata: &metadata,
        })
        .collect();
    let policy = LbPolicy::LeastRequest(LeastRequest {
        choices: 2,
        bias: 1.0,
        full_scan: false,
        slow_start: None,
    });
    let rules = balance::Rules {
        policy: &policy,
        common: &LbCommon::default(),
        subsets: None,
        overprovisioning: 140,
        weighted_health: false,
    };
    let balancer = Balancer::new(rules, &hosts, 1);
    let mut state = PickState::default();
    let mut number = 0_u64;
    let mut random = || {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        number >> 16
    };
    for _ in 0..count {
        let mut context = PickContext {
            random: &mut random,
            hash: None,
            active: &|position| position as u64 % 3,
            age: &|_| Duration::from_secs(3600),
            avoid: &|_| false,
            attempts: 0,
            criteria: &[],
            avoid_priorities: &[],
        };
        black_box(balancer.pick(&mut state, &mut context)).ok_or("there are hosts")?;
    }
    Ok(())
}

/// Writes a request head and a response head.
fn write(count: usize) -> Result<(), Failure> {
    let limits = HeadLimits {
        max_bytes: 60 * 1024,
        max_headers: 100,
        ..HeadLimits::default()
    };
    let head = HeadDecoder::default()
        .request(&mut BytesMut::from(REQUEST), &limits)?
        .ok_or("the request is complete")?;
    let mut out = Vec::with_capacity(4096);
    for _ in 0..count {
        out.clear();
        let host = head.host.as_deref().unwrap_or_default();
        encode::request(
            &mut out,
            &Method::GET,
            &head.target,
            host,
            &head.headers,
            Framing::None,
            Casing::Lower,
        );
        let body = ResponseBody::Length(1024);
        encode::response(
            &mut out,
            http::StatusCode::OK,
            &head.headers,
            body,
            None,
            Casing::Lower,
            Version::Http11,
        );
        black_box(&out);
    }
    Ok(())
}
