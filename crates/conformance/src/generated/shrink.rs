//! Making a difference small: parts of the configuration and of the request are left out as long as it stays.

use serde_json::Value;

use super::{Pair, differs};
use crate::run::Settings;

/// Most runs for one difference.
const TRIES: usize = 60;

/// Members without which a message is none.
const NEEDED: [&str; 5] = ["match", "name", "header", "path", "cluster"];

/// The smallest pair found that still differs.
pub(super) async fn shrink(settings: &Settings, mut pair: Pair) -> anyhow::Result<Pair> {
    let mut tries = 0;
    loop {
        let mut smaller = None;
        for candidate in candidates(&pair) {
            tries += 1;
            if tries > TRIES {
                return Ok(pair);
            }
            if differs(settings, &candidate).await? {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(found) => pair = found,
            None => return Ok(pair),
        }
    }
}

/// Every pair with one part less.
fn candidates(pair: &Pair) -> Vec<Pair> {
    let mut all = Vec::new();
    for host in without_one(&pair.host) {
        if host["routes"]
            .as_array()
            .is_some_and(|routes| !routes.is_empty())
        {
            all.push(Pair {
                host,
                requests: pair.requests.clone(),
            });
        }
    }
    if let Some(request) = pair.requests.first() {
        for request in without_one(request)
            .into_iter()
            .filter(|request| request["headers"].is_object())
        {
            all.push(Pair {
                host: pair.host.clone(),
                requests: vec![request],
            });
        }
    }
    all
}

/// The value with one member or element less, the outermost first.
fn without_one(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Object(map) => {
            for key in map
                .keys()
                .filter(|key| !NEEDED.contains(&key.as_str()) && !key.starts_with('@'))
            {
                let mut less = map.clone();
                less.shift_remove(key);
                all.push(Value::Object(less));
            }
            for (key, inner) in map {
                for inner in without_one(inner) {
                    let mut less = map.clone();
                    less.insert(key.clone(), inner);
                    all.push(Value::Object(less));
                }
            }
        }
        Value::Array(list) => {
            for index in 0..list.len() {
                let mut less = list.clone();
                less.remove(index);
                all.push(Value::Array(less));
            }
            for (index, inner) in list.iter().enumerate() {
                for inner in without_one(inner) {
                    let mut less = list.clone();
                    less[index] = inner;
                    all.push(Value::Array(less));
                }
            }
        }
        _ => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_part_is_left_out_at_a_time() {
        let all = without_one(&json!({"a": [1, 2], "name": "n"}));
        assert_eq!(
            all,
            [
                json!({"name": "n"}),
                json!({"a": [2], "name": "n"}),
                json!({"a": [1], "name": "n"})
            ]
        );
    }
}
