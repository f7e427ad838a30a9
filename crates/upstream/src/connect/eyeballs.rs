//! Several addresses of one host, tried one after the other without waiting long (RFC 8305, as Envoy does it).

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::Target;

/// Time after which the next address is tried beside the one that does not answer.
const NEXT_AFTER: Duration = Duration::from_millis(300);

/// The order in which addresses are tried: the first one, then in turns of the other family and its own.
pub(super) fn order<'t>(first: &'t Target, more: &'t [Target]) -> Vec<&'t Target> {
    let family = |target: &Target| match target {
        Target::Tcp(address) => address.is_ipv4(),
        Target::Unix(_) => true,
    };
    let own = family(first);
    let (mut same, mut other): (Vec<_>, Vec<_>) =
        more.iter().partition(|target| family(target) == own);
    same.reverse();
    other.reverse();
    let mut order = vec![first];
    while !same.is_empty() || !other.is_empty() {
        order.extend(other.pop());
        order.extend(same.pop());
    }
    order
}

/// The first connection that comes about; the failure of the last one that ended when none does.
pub(super) async fn race<'t, T, E, F>(
    targets: &[&'t Target],
    connect: impl Fn(&'t Target) -> F,
) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = targets.iter();
    let mut running = FuturesUnordered::new();
    running.push(connect(waiting.next()?));
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                Some(Ok(connected)) => return Some(Ok(connected)),
                Some(Err(error)) => {
                    last = Some(Err(error));
                    match waiting.next() {
                        Some(next) => running.push(connect(next)),
                        None if running.is_empty() => return last,
                        None => {}
                    }
                }
                None => return last,
            },
            () = tokio::time::sleep(NEXT_AFTER), if waiting.len() > 0 => {
                if let Some(next) = waiting.next() {
                    running.push(connect(next));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::Tcp(text.parse().unwrap())
    }

    #[test]
    fn families_take_turns_from_the_first_address_on() {
        let first = target("[::1]:1");
        let more = ["[::2]:1", "1.1.1.1:1", "[::3]:1", "1.1.1.2:1"].map(target);
        let order: Vec<String> = order(&first, &more)
            .iter()
            .map(|target| target.to_string())
            .collect();
        assert_eq!(
            order,
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_is_passed_over_after_its_time_and_a_refusing_one_at_once() {
        let targets = ["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"].map(target);
        let targets: Vec<&Target> = targets.iter().collect();
        let silent = targets[0];
        let refusing = targets[1];
        let started = tokio::time::Instant::now();
        let got = race(&targets, |target| async move {
            if target == silent {
                std::future::pending::<()>().await;
            }
            if target == refusing {
                return Err("refused");
            }
            Ok(target.clone())
        })
        .await;
        assert_eq!(got, Some(Ok(targets[2].clone())));
        assert_eq!(started.elapsed(), NEXT_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_is_reported() {
        let targets = ["1.1.1.1:1", "1.1.1.2:1"].map(target);
        let targets: Vec<&Target> = targets.iter().collect();
        let got: Option<Result<(), String>> =
            race(&targets, |target| async move { Err(target.to_string()) }).await;
        assert_eq!(got, Some(Err("1.1.1.2:1".to_owned())));
    }
}
