use std::collections::BTreeMap;

use super::*;
use crate::cluster::{
    Hashing, LeastRequest, Maglev, RingHash, SelectorFallback, SubsetFallback, SubsetSelector,
};
use crate::endpoint::Health;

fn host(key: &str) -> HostFacts<'_> {
    HostFacts {
        key,
        weight: 1,
        health: Health::Healthy,
        excluded: false,
        priority: 0,
        locality: 0,
        locality_weight: None,
        metadata: &NO_METADATA,
    }
}

static NO_METADATA: std::sync::LazyLock<Metadata> = std::sync::LazyLock::new(Metadata::default);

fn rules<'a>(policy: &'a LbPolicy, common: &'a LbCommon) -> Rules<'a> {
    Rules {
        policy,
        common,
        subsets: None,
        overprovisioning: 140,
        weighted_health: false,
    }
}

fn balancer(policy: &LbPolicy, common: &LbCommon, hosts: &[HostFacts<'_>]) -> Balancer {
    Balancer::new(rules(policy, common), hosts, 1)
}

fn context<'a>(random: &'a mut dyn FnMut() -> u64) -> PickContext<'a> {
    PickContext {
        random,
        hash: None,
        active: IDLE,
        age: &|_| Duration::MAX,
        avoid: &|_| false,
        attempts: 0,
        criteria: &[],
        avoid_priorities: &[],
    }
}

/// A small generator, so that runs are the same everywhere.
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        crate::hash::xx64(&state.to_le_bytes(), 0)
    }
}

fn picks(
    balancer: &Balancer,
    count: usize,
    hash: Option<u64>,
    active: &dyn Fn(usize) -> u64,
) -> Vec<usize> {
    let mut state = PickState::default();
    let mut random = numbers(7);
    (0..count)
        .filter_map(|_| {
            balancer.pick(
                &mut state,
                &mut PickContext {
                    hash,
                    active,
                    ..context(&mut random)
                },
            )
        })
        .collect()
}

fn counts(picks: &[usize]) -> BTreeMap<usize, usize> {
    let mut out = BTreeMap::new();
    for pick in picks {
        *out.entry(*pick).or_default() += 1;
    }
    out
}

const IDLE: &dyn Fn(usize) -> u64 = &|_| 0;

#[test]
fn round_robin_takes_turns() {
    let hosts = [host("a"), host("b"), host("c")];
    let balancer = balancer(&LbPolicy::RoundRobin(None), &LbCommon::default(), &hosts);
    let order = picks(&balancer, 6, None, IDLE);
    assert_eq!(
        order[0..3]
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        3
    );
    assert_eq!(order[0..3], order[3..6]);
}

#[test]
fn a_rotation_survives_an_unrelated_update() {
    let hosts = [host("a"), host("b"), host("c")];
    let policy = LbPolicy::RoundRobin(None);
    let mut state = PickState::default();
    let mut random = numbers(1);
    let mut order = Vec::new();
    for generation in 1..7 {
        let common = LbCommon::default();
        let balancer = Balancer::new(rules(&policy, &common), &hosts, generation);
        order.push(
            balancer
                .pick(&mut state, &mut context(&mut random))
                .unwrap(),
        );
    }
    assert_eq!(order[0..3], order[3..6]);
    assert_eq!(counts(&order).len(), 3);
}

#[test]
fn weights_are_kept_exactly_over_a_round() {
    let hosts = [
        HostFacts {
            weight: 3,
            ..host("a")
        },
        host("b"),
    ];
    let balancer = balancer(&LbPolicy::RoundRobin(None), &LbCommon::default(), &hosts);
    assert_eq!(
        counts(&picks(&balancer, 400, None, IDLE)),
        BTreeMap::from([(0, 300), (1, 100)])
    );
}

#[test]
fn least_request_prefers_the_idle_host() {
    let settings = LeastRequest {
        choices: 2,
        bias: 1.0,
        full_scan: false,
        slow_start: None,
    };
    let hosts = [host("a"), host("b")];
    let balancer = balancer(
        &LbPolicy::LeastRequest(settings),
        &LbCommon::default(),
        &hosts,
    );
    let spread = counts(&picks(&balancer, 1000, None, &|position| {
        if position == 0 { 5 } else { 0 }
    }));
    // The busy host is taken only when both draws name it: a quarter.
    assert!((200..300).contains(&spread[&0]), "{spread:?}");
}

#[test]
fn unhealthy_hosts_are_left_out_until_panic() {
    let hosts = [
        host("a"),
        HostFacts {
            health: Health::Unhealthy,
            ..host("b")
        },
        host("c"),
    ];
    let policy = LbPolicy::RoundRobin(None);
    let order = picks(
        &balancer(&policy, &LbCommon::default(), &hosts),
        30,
        None,
        IDLE,
    );
    assert!(!counts(&order).contains_key(&1));
    let sick = HostFacts {
        health: Health::Unhealthy,
        ..host("x")
    };
    let mostly = [host("a"), sick.clone(), sick.clone()];
    assert_eq!(
        counts(&picks(
            &balancer(&policy, &LbCommon::default(), &mostly),
            30,
            None,
            IDLE
        ))
        .len(),
        3
    );
    let never = LbCommon {
        panic_threshold: 0.0,
        ..LbCommon::default()
    };
    assert_eq!(
        counts(&picks(&balancer(&policy, &never, &mostly), 30, None, IDLE)).len(),
        1
    );
    assert!(picks(&balancer(&policy, &never, &[sick]), 1, None, IDLE).is_empty());
}

#[test]
fn load_spills_to_the_next_priority_as_health_falls() {
    let at = |priority: u32, health: Health| HostFacts {
        priority,
        health,
        ..host("h")
    };
    let level = |sick: usize| {
        let first = (0..10).map(|n| {
            at(
                0,
                if n < sick {
                    Health::Unhealthy
                } else {
                    Health::Healthy
                },
            )
        });
        first
            .chain((0..10).map(|_| at(1, Health::Healthy)))
            .collect::<Vec<_>>()
    };
    let loads = |sick: usize| {
        let hosts = level(sick);
        balancer(&LbPolicy::RoundRobin(None), &LbCommon::default(), &hosts)
            .whole
            .loads()
            .healthy()
            .to_vec()
    };
    assert_eq!(loads(0), [100, 0]);
    assert_eq!(loads(2), [100, 0]);
    assert_eq!(loads(5), [70, 30]);
    assert_eq!(loads(10), [0, 100]);
}

#[test]
fn locality_weights_divide_the_load() {
    let at = |locality: u32, weight: u32| HostFacts {
        locality,
        locality_weight: Some(weight),
        ..host("h")
    };
    let hosts = [at(0, 4), at(0, 4), at(1, 1)];
    let common = LbCommon {
        locality_weighted: true,
        ..LbCommon::default()
    };
    let spread = counts(&picks(
        &balancer(&LbPolicy::RoundRobin(None), &common, &hosts),
        1000,
        None,
        IDLE,
    ));
    assert_eq!(spread[&2], 200, "{spread:?}");
}

fn ring() -> LbPolicy {
    LbPolicy::RingHash(RingHash {
        min: 1024,
        max: 8 << 20,
        murmur: false,
        hashing: Hashing::default(),
    })
}

fn maglev() -> LbPolicy {
    LbPolicy::Maglev(Maglev {
        table_size: 65_537,
        hashing: Hashing::default(),
    })
}

#[test]
fn one_hash_always_gives_one_host_and_few_move_when_a_host_leaves() {
    let keys: Vec<String> = (0..10).map(|n| format!("10.0.0.{n}:80")).collect();
    for policy in [ring(), maglev()] {
        let hosts: Vec<_> = keys.iter().map(|key| host(key)).collect();
        let whole = balancer(&policy, &LbCommon::default(), &hosts);
        let less = balancer(&policy, &LbCommon::default(), &hosts[..9]);
        let mut moved = 0;
        for number in 0_u64..1000 {
            let hash = crate::hash::xx64(&number.to_le_bytes(), 0);
            let before = picks(&whole, 2, Some(hash), IDLE);
            assert_eq!(before[0], before[1]);
            let after = picks(&less, 1, Some(hash), IDLE)[0];
            moved += usize::from(before[0] != after && before[0] != 9);
        }
        // A ring of nine has more entries for each host than one of ten, so a few more than none move.
        assert!(
            moved < 120,
            "{moved} of 1000 moved without need under {policy:?}"
        );
    }
}

#[test]
fn consistent_policies_follow_weights() {
    let hosts = [
        HostFacts {
            weight: 3,
            ..host("10.0.0.1:80")
        },
        host("10.0.0.2:80"),
    ];
    for policy in [ring(), maglev()] {
        let balancer = balancer(&policy, &LbCommon::default(), &hosts);
        let hashes = (0_u64..4000).map(|n| crate::hash::xx64(&n.to_le_bytes(), 0));
        let first = hashes
            .filter(|hash| picks(&balancer, 1, Some(*hash), IDLE)[0] == 0)
            .count();
        assert!((2700..3300).contains(&first), "{first} under {policy:?}");
    }
}

#[test]
fn a_retry_avoids_tried_hosts_while_it_may() {
    let hosts = [host("a"), host("b")];
    let balancer = balancer(&LbPolicy::RoundRobin(None), &LbCommon::default(), &hosts);
    let mut state = PickState::default();
    let mut random = numbers(3);
    for _ in 0..10 {
        let mut context = PickContext {
            avoid: &|position| position == 0,
            attempts: 5,
            ..context(&mut random)
        };
        assert_eq!(balancer.pick(&mut state, &mut context), Some(1));
    }
}

#[test]
fn slow_start_scales_a_new_host() {
    let slow = SlowStart {
        window: Duration::from_secs(10),
        aggression: 1.0,
        min_weight_percent: 10.0,
    };
    assert!((slow.factor(Duration::ZERO) - 0.1).abs() < 1e-9);
    assert!((slow.factor(Duration::from_secs(5)) - 0.5).abs() < 1e-9);
    assert!((slow.factor(Duration::from_secs(20)) - 1.0).abs() < 1e-9);
}

fn degraded_levels(parts: &[(usize, usize, usize)]) -> Vec<HostFacts<'static>> {
    let mut hosts = Vec::new();
    for ((healthy, degraded, unhealthy), priority) in parts.iter().zip(0..) {
        let all = [
            (healthy, Health::Healthy),
            (degraded, Health::Degraded),
            (unhealthy, Health::Unhealthy),
        ];
        for (count, health) in all {
            hosts.extend((0..*count).map(|_| HostFacts {
                priority,
                health,
                ..host("h")
            }));
        }
    }
    hosts
}

#[test]
fn degraded_hosts_take_what_healthy_ones_cannot() {
    let loads = |parts: &[(usize, usize, usize)]| {
        let hosts = degraded_levels(parts);
        let balancer = balancer(&LbPolicy::RoundRobin(None), &LbCommon::default(), &hosts);
        let loads = balancer.whole.loads();
        (loads.healthy().to_vec(), loads.degraded().to_vec())
    };
    // 25 % healthy are good for 35 %, the degraded ones for the rest.
    assert_eq!(loads(&[(1, 3, 0)]), (vec![35], vec![65]));
    // The next priority's healthy hosts come before degraded ones.
    assert_eq!(loads(&[(1, 3, 0), (4, 0, 0)]), (vec![35, 65], vec![0, 0]));
    assert_eq!(loads(&[(0, 4, 0)]), (vec![0], vec![100]));
}

#[test]
fn the_panic_threshold_is_a_whole_percentage() {
    let hosts = degraded_levels(&[(1, 0, 199)]);
    let at = |panic_threshold: f64| {
        let common = LbCommon {
            panic_threshold,
            ..LbCommon::default()
        };
        balancer(&LbPolicy::Random, &common, &hosts).panics(0)
    };
    assert!(!at(0.4));
    assert!(at(0.6));
}

#[test]
fn a_ring_over_localities_follows_their_weights_not_their_sizes() {
    let keys: Vec<String> = (0..5).map(|n| format!("10.0.0.{n}:80")).collect();
    let hosts: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(number, key)| HostFacts {
            locality: u32::from(number > 0),
            locality_weight: Some(1),
            ..host(key)
        })
        .collect();
    let common = LbCommon {
        locality_weighted: true,
        ..LbCommon::default()
    };
    for policy in [ring(), maglev()] {
        let balancer = balancer(&policy, &common, &hosts);
        let hashes = (0_u64..4000).map(|n| crate::hash::xx64(&n.to_le_bytes(), 0));
        let alone = hashes
            .filter(|hash| picks(&balancer, 1, Some(*hash), IDLE)[0] == 0)
            .count();
        assert!((1700..2300).contains(&alone), "{alone} under {policy:?}");
    }
}

#[test]
fn a_retry_leaves_a_priority_while_another_has_hosts() {
    let hosts = degraded_levels(&[(2, 0, 0), (2, 0, 0)]);
    let balancer = balancer(&LbPolicy::Random, &LbCommon::default(), &hosts);
    let mut state = PickState::default();
    let mut random = numbers(5);
    let mut pick = |avoid_priorities: &[u32]| {
        let mut context = PickContext {
            avoid_priorities,
            ..context(&mut random)
        };
        balancer.pick(&mut state, &mut context).unwrap() / 2
    };
    assert_eq!(pick(&[]), 0);
    assert_eq!(pick(&[0]), 1);
    assert_eq!(pick(&[0, 1]), 0);
}

fn stage(value: &str) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("envoy.lb", "stage", Value::String(value.into()));
    metadata
}

fn subsets(fallback: SubsetFallback, selector: SelectorFallback) -> SubsetSettings {
    SubsetSettings {
        fallback,
        default: vec![("stage".into(), Value::String("prod".into()))],
        selectors: vec![SubsetSelector {
            keys: vec!["stage".into()],
            fallback: selector,
        }],
        locality_weight_aware: false,
        scale_locality_weight: false,
        panic_mode_any: false,
        list_as_any: false,
        fallback_list: false,
        allow_redundant_keys: false,
    }
}

#[test]
fn criteria_choose_a_subset_and_fallbacks_fill_in() {
    let metadata = [stage("prod"), stage("canary"), Metadata::default()];
    let hosts: Vec<_> = metadata
        .iter()
        .map(|metadata| HostFacts {
            metadata,
            ..host("h")
        })
        .collect();
    let spread = |settings: &SubsetSettings, wanted: &[(Str, Value)]| {
        let (policy, common) = (LbPolicy::RoundRobin(None), LbCommon::default());
        let rules = Rules {
            subsets: Some(settings),
            ..rules(&policy, &common)
        };
        let balancer = Balancer::new(rules, &hosts, 1);
        let mut state = PickState::default();
        let mut random = numbers(5);
        let mut chosen = std::collections::BTreeSet::new();
        for _ in 0..12 {
            let mut context = PickContext {
                criteria: wanted,
                ..context(&mut random)
            };
            chosen.extend(balancer.pick(&mut state, &mut context));
        }
        chosen.into_iter().collect::<Vec<_>>()
    };
    let want = |value: &str| [("stage".into(), Value::String(value.into()))];
    let none = subsets(SubsetFallback::None, SelectorFallback::NotDefined);
    assert_eq!(spread(&none, &want("canary")), [1]);
    assert_eq!(spread(&none, &want("other")), [0_usize; 0]);
    assert_eq!(spread(&none, &[]), [0_usize; 0]);
    let any = subsets(SubsetFallback::Any, SelectorFallback::NotDefined);
    assert_eq!(spread(&any, &want("other")), [0, 1, 2]);
    let default = subsets(SubsetFallback::Default, SelectorFallback::NotDefined);
    assert_eq!(spread(&default, &want("other")), [0]);
    assert_eq!(spread(&default, &[]), [0]);
    let refuses = subsets(SubsetFallback::Any, SelectorFallback::None);
    assert_eq!(spread(&refuses, &want("other")), [0_usize; 0]);
    assert_eq!(spread(&refuses, &[]), [0, 1, 2]);
    let fewer = subsets(SubsetFallback::Default, SelectorFallback::Keys(Vec::new()));
    assert_eq!(spread(&fewer, &want("other")), [0]);
}
