//! Crash safety of the real process: SIGKILL at random points under eight writers.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Client;
use serde_json::{Value, json};

/// Names the state directory for the child: the test binary runs itself as the server.
const STATE: &str = "MELTEMI_TEST_STATE";
/// How often the server is killed.
const KILLS: u64 = 200;
const WRITERS: usize = 8;

/// Not a test: the server process of the tests in this file.
#[test]
#[ignore = "started by the other tests of this file as their server process"]
fn server_process() {
    let Some(state) = std::env::var_os(STATE) else {
        return;
    };
    let port = std::env::var_os("MELTEMI_TEST_PORT")
        .and_then(|p| p.to_str()?.parse().ok())
        .unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime
        .block_on(meltemi_apiserver::run(meltemi_apiserver::Config::new(
            state, port,
        )))
        .expect("server");
}

fn spawn_server(state: &Path) -> Child {
    // A stale kubeconfig would name the previous life's port.
    let _ = std::fs::remove_file(state.join("kubeconfig"));
    Command::new(std::env::current_exe().expect("own path"))
        .args([
            "--ignored",
            "--exact",
            "crash::server_process",
            "--nocapture",
        ])
        .env(STATE, state)
        .stdout(Stdio::null())
        .spawn()
        .expect("start the server process")
}

async fn connect(state: &Path) -> Client {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(client) = Client::from_state(state).await {
            return client;
        }
        assert!(Instant::now() < deadline, "the server did not come up");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The last acknowledged state of a writer's objects; `None` is "deleted".
#[derive(Default)]
struct Ledger {
    acknowledged: HashMap<String, Option<u64>>,
    doubt: Option<(String, Option<u64>)>,
}

impl Ledger {
    /// Checks the store against the ledger and adopts what an unanswered write turned out to be.
    fn reconcile(&mut self, stored: &HashMap<String, u64>) {
        if let Some((name, attempt)) = self.doubt.take() {
            let found = stored.get(&name).copied();
            let before = self.acknowledged.get(&name).copied().flatten();
            assert!(
                found == attempt || found == before,
                "{name}: {found:?} is neither {attempt:?} nor {before:?}"
            );
            self.acknowledged.insert(name, found);
        }
        for (name, expected) in &self.acknowledged {
            assert_eq!(
                stored.get(name),
                expected.as_ref(),
                "{name} lost an acknowledged write"
            );
        }
    }
}

fn config_map(name: &str, n: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": n.to_string()}})
}

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

async fn write_until_killed(
    mut client: Client,
    mut ledger: Ledger,
    writer: usize,
    seed: u64,
) -> Ledger {
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let name = format!("w{writer}-{}", random.u8(0..3));
        let path = format!("{COLLECTION}/{name}");
        let exists = ledger.acknowledged.get(&name).copied().flatten().is_some();
        let n = random.u64(1..u64::from(u32::MAX));
        let (attempt, answer) = if exists && random.u8(0..3) == 0 {
            (None, client.send("DELETE", &path, None).await)
        } else if exists {
            (
                Some(n),
                client.send("PUT", &path, Some(&config_map(&name, n))).await,
            )
        } else {
            (
                Some(n),
                client
                    .send("POST", COLLECTION, Some(&config_map(&name, n)))
                    .await,
            )
        };
        match answer {
            Some((200 | 201, _)) => {
                ledger.acknowledged.insert(name, attempt);
            }
            Some((code, body)) => panic!("{code} for the only writer of {name}: {body}"),
            None => {
                ledger.doubt = Some((name, attempt));
                return ledger;
            }
        }
    }
}

async fn stored(client: &mut Client) -> HashMap<String, u64> {
    let (code, list) = client.send("GET", COLLECTION, None).await.expect("list");
    assert_eq!(code, 200);
    let items = list["items"].as_array().expect("items").clone();
    items
        .iter()
        .map(|item| {
            let n = item["data"]["n"]
                .as_str()
                .expect("n")
                .parse()
                .expect("number");
            (
                item["metadata"]["name"].as_str().expect("name").to_owned(),
                n,
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_two_hundred_sigkills() {
    let state = tempfile::tempdir().expect("tempdir");
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut writes = 0;
    for round in 0..KILLS {
        let mut server = spawn_server(state.path());
        let mut client = connect(state.path()).await;
        let now = stored(&mut client).await;
        ledgers.iter_mut().for_each(|ledger| ledger.reconcile(&now));
        let mut writers = Vec::new();
        for (writer, ledger) in ledgers.drain(..).enumerate() {
            let client = Client::from_state(state.path()).await.expect("connect");
            let seed = round * 100 + writer as u64;
            writers.push(tokio::spawn(write_until_killed(
                client, ledger, writer, seed,
            )));
        }
        tokio::time::sleep(Duration::from_millis(random.u64(1..40))).await;
        server.kill().expect("kill");
        let status = server.wait().expect("wait");
        assert_eq!(
            status.signal(),
            Some(9),
            "the server ended by itself: {status}"
        );
        for writer in writers {
            let ledger = writer.await.expect("writer");
            writes += ledger.acknowledged.len();
            ledgers.push(ledger);
        }
    }
    assert!(writes > 0, "no write was ever acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_the_server_cleanly_with_a_watch_open() {
    let state = tempfile::tempdir().expect("tempdir");
    let mut server = spawn_server(state.path());
    let mut client = connect(state.path()).await;
    let mut watch = client
        .watch("/api/v1/namespaces?watch=true&resourceVersion=0")
        .await;
    assert!(watch.next().await.is_some());
    let pid = i32::try_from(server.id()).expect("pid");
    let killed = Command::new("kill")
        .args(["-TERM", &pid.to_string()])
        .status()
        .expect("kill");
    assert!(killed.success());
    while watch.next().await.is_some() {}
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = server.try_wait().expect("wait") {
            break status;
        }
        assert!(Instant::now() < deadline, "the server ignores SIGTERM");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(status.success());
}
