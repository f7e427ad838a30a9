use std::collections::BTreeMap;

use super::*;
use crate::cluster::{Hashing, Maglev, RingHash};

fn host(key: &str) -> HostFacts<'_> {
    HostFacts {
        key,
        weight: 1,
        health: Health::Healthy,
        priority: 0,
        locality: 0,
        locality_weight: None,
    }
}

fn balancer(policy: &LbPolicy, common: &LbCommon, hosts: &[HostFacts<'_>]) -> Balancer {
    Balancer::new(policy, common, 140, hosts, 1)
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
                    random: &mut random,
                    hash,
                    active,
                    age: &|_| Duration::ZERO,
                    avoid: &|_| false,
                    attempts: 0,
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
        let balancer = Balancer::new(&policy, &LbCommon::default(), 140, &hosts, generation);
        let mut context = PickContext {
            random: &mut random,
            hash: None,
            active: IDLE,
            age: &|_| Duration::ZERO,
            avoid: &|_| false,
            attempts: 0,
        };
        order.push(balancer.pick(&mut state, &mut context).unwrap());
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
            .loads
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
            random: &mut random,
            hash: None,
            active: IDLE,
            age: &|_| Duration::ZERO,
            avoid: &|position| position == 0,
            attempts: 5,
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
