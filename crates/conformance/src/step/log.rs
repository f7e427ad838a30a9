//! Lines of an access log since the last look.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ASK_AGAIN, Context, PATIENCE};

/// Which log and how many lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    /// File in the case's directory.
    #[serde(default = "access_log")]
    file: String,
    /// Lines that must have come since the last look; as many as are expected when absent.
    lines: Option<usize>,
    /// Lines are JSON.
    #[serde(default)]
    json: bool,
    /// Lines come in any order.
    #[serde(default)]
    sorted: bool,
}

fn access_log() -> String {
    "access.log".to_owned()
}

impl Log {
    /// Waits for the lines and takes them.
    pub(crate) async fn run(&self, context: &Context<'_>, expect: &Value) -> anyhow::Result<Value> {
        let expected = expect
            .get("lines")
            .and_then(Value::as_array)
            .map_or(1, Vec::len);
        let wanted = self.lines.unwrap_or(expected);
        let taken = context
            .logs
            .lock()
            .get(&self.file)
            .copied()
            .unwrap_or_default();
        let deadline = tokio::time::Instant::now() + PATIENCE / 2;
        let path = context.directory.join(&self.file);
        let lines = loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // A line that is being written has no end yet.
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            let lines: Vec<String> = complete.lines().skip(taken).map(str::to_owned).collect();
            if lines.len() >= wanted || tokio::time::Instant::now() > deadline {
                break lines;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        };
        context
            .logs
            .lock()
            .insert(self.file.clone(), taken + lines.len());
        let mut lines = lines;
        if self.sorted {
            lines.sort_unstable();
        }
        if self.json {
            let parsed: Vec<Value> = lines
                .iter()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line)))
                .collect();
            return Ok(json!({ "lines": parsed }));
        }
        Ok(json!({ "lines": lines }))
    }
}
