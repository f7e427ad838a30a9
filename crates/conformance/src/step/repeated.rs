//! The same request many times, and how the answers are distributed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::request::Request;
use crate::record::Seen;

/// A request and how often.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Repeat {
    /// How often.
    times: usize,
    /// At a time; 1 when absent.
    #[serde(default = "one")]
    at_once: usize,
    /// The bodies, in order, are observed too.
    #[serde(default)]
    bodies: bool,
    /// What to ask; `{n}` in its path and fields becomes the number of the repetition.
    request: Value,
}

fn one() -> usize {
    1
}

impl Repeat {
    /// Asks; observes how often each status came.
    pub(crate) async fn run(&self, context: &Context<'_>) -> anyhow::Result<Value> {
        let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
        let mut bodies = Vec::new();
        let text = self.request.to_string();
        let mut number = 0;
        while number < self.times {
            let batch = self.at_once.min(self.times - number);
            let requests: Vec<Request> = (number..number + batch)
                .map(|number| serde_json::from_str(&text.replace("{n}", &number.to_string())))
                .collect::<Result<_, _>>()?;
            number += batch;
            if let Some(churn) = &context.churn {
                churn.turn()?;
            }
            let answers =
                futures::future::join_all(requests.iter().map(|request| request.run(context)))
                    .await;
            for answer in answers {
                let answer = answer?;
                let status = answer["status"].as_u64().map(|status| status.to_string());
                *statuses
                    .entry(status.unwrap_or_else(|| "none".to_owned()))
                    .or_default() += 1;
                bodies.push(answer["body"].clone());
            }
        }
        Ok(if self.bodies {
            json!({ "statuses": statuses, "bodies": bodies })
        } else {
            json!({ "statuses": statuses })
        })
    }
}

/// How many requests each backend got.
pub(crate) fn shares(upstream: &[Seen]) -> Value {
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for seen in upstream {
        *shares.entry(&seen.backend).or_default() += 1;
    }
    json!(shares)
}
