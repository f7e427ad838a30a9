//! `envoy.filters.network.mongo_proxy`: reads along, counts what is asked and answered, and may delay requests.
//!
//! Whatever cannot be read ends the reading along, never the connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use meltemi_traffic::Str;
use meltemi_traffic::listener::MongoProxy;
use meltemi_traffic::metadata::{Fields, Metadata, Value};
use meltemi_wire::mongo::{Body, Document, Field, Message, first};

use crate::counters::{Counter, Entered};

/// Namespace of the metadata that is set.
const NAMESPACE: &str = "envoy.filters.network.mongo_proxy";
/// Queries of one connection that wait for their reply, as far as they are remembered.
const MAX_ACTIVE: usize = 1024;

/// The filter of one chain.
#[derive(Debug)]
pub struct Mongo {
    config: Arc<MongoProxy>,
    stats: Stats,
}

/// Counters whose names are known beforehand.
#[derive(Debug)]
struct Stats {
    prefix: String,
    decoding_error: Counter,
    delays: Counter,
    destroyed_local: Counter,
    destroyed_remote: Counter,
    get_more: Counter,
    insert: Counter,
    kill_cursors: Counter,
    command: Counter,
    command_reply: Counter,
    query: Counter,
    query_active: Counter,
    reply: Counter,
}

impl Stats {
    fn new(prefix: &str) -> Self {
        let prefix = format!("mongo.{prefix}.");
        let named = |name: &str| Counter::named(format!("{prefix}{name}"));
        let stats = Self {
            decoding_error: named("decoding_error"),
            delays: named("delays_injected"),
            destroyed_local: named("cx_destroy_local_with_active_rq"),
            destroyed_remote: named("cx_destroy_remote_with_active_rq"),
            get_more: named("op_get_more"),
            insert: named("op_insert"),
            kill_cursors: named("op_kill_cursors"),
            command: named("op_command"),
            command_reply: named("op_command_reply"),
            query: named("op_query"),
            query_active: named("op_query_active"),
            reply: named("op_reply"),
            prefix: prefix.clone(),
        };
        for name in [
            "op_query_await_data",
            "op_query_exhaust",
            "op_query_multi_get",
            "op_query_no_cursor_timeout",
            "op_query_no_max_time",
            "op_query_scatter_get",
            "op_query_tailable_cursor",
            "op_reply_cursor_not_found",
            "op_reply_query_failure",
            "op_reply_valid_cursor",
        ] {
            stats.named(name);
        }
        stats
    }

    /// A counter of a name that the traffic makes; their number is limited by the registry.
    fn named(&self, name: &str) -> Counter {
        Counter::named(format!("{}{name}", self.prefix))
    }
}

/// Who sent the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// One connection that is read along.
#[derive(Debug)]
pub struct Session {
    mongo: Arc<Mongo>,
    /// What came of a message so far, from the client and from the server.
    parts: [BytesMut; 2],
    lost: bool,
    active: Vec<(i32, Entered)>,
    metadata: Metadata,
}

impl Mongo {
    /// Takes a filter into use.
    #[must_use]
    pub fn new(config: &Arc<MongoProxy>) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::clone(config),
            stats: Stats::new(&config.stat_prefix),
        })
    }

    /// Begins to read a connection along.
    #[must_use]
    pub fn session(self: &Arc<Self>) -> Session {
        Session {
            mongo: Arc::clone(self),
            parts: [BytesMut::new(), BytesMut::new()],
            lost: false,
            active: Vec::new(),
            metadata: Metadata::default(),
        }
    }

    fn delay(&self) -> Option<Duration> {
        let (delay, share) = self.config.delay?;
        (!delay.is_zero() && share.hits(fastrand::u64(..))).then_some(delay)
    }
}

impl Session {
    /// Reads bytes that are on their way. The result is how long they are to be held up.
    pub fn read(&mut self, sender: Sender, bytes: &[u8]) -> Option<Duration> {
        if self.lost {
            return None;
        }
        let at = usize::from(sender == Sender::Server);
        let mut part = std::mem::take(&mut self.parts[at]);
        part.extend_from_slice(bytes);
        let mongo = Arc::clone(&self.mongo);
        if mongo.config.emit_metadata {
            self.metadata = Metadata::default();
            let nothing = Value::Struct(Fields::default());
            self.metadata.namespaces.insert(NAMESPACE.into(), nothing);
        }
        let mut delay = None;
        loop {
            match first(&part, mongo.config.max_depth) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    let known = self.take(&mongo, &message, &mut delay);
                    part.advance(message.len);
                    if known.is_some() {
                        continue;
                    }
                }
                Err(_) => {}
            }
            mongo.stats.decoding_error.inc();
            self.lost = true;
            return delay;
        }
        if !part.is_empty() {
            self.parts[at] = part;
        }
        delay
    }

    /// Puts the metadata of what was read last among a connection's.
    pub fn publish(&self, to: &mut Metadata) {
        if let Some(value) = self.metadata.namespaces.get(NAMESPACE) {
            to.namespaces.insert(NAMESPACE.into(), value.clone());
        }
    }

    /// The connection ends, at its client's wish or not.
    pub fn close(&mut self, by_client: bool) {
        if self.active.is_empty() {
            return;
        }
        let stats = &self.mongo.stats;
        if by_client {
            stats.destroyed_remote.inc();
        } else {
            stats.destroyed_local.inc();
        }
        self.active.clear();
    }

    /// Counts a message; `None` when its content makes no sense.
    fn take(
        &mut self,
        mongo: &Mongo,
        message: &Message<'_>,
        delay: &mut Option<Duration>,
    ) -> Option<()> {
        let stats = &mongo.stats;
        let asks = !matches!(message.body, Body::Reply { .. } | Body::CommandReply);
        if asks && delay.is_none() {
            *delay = mongo.delay();
            if delay.is_some() {
                stats.delays.inc();
            }
        }
        match message.body {
            Body::GetMore => stats.get_more.inc(),
            Body::KillCursors => stats.kill_cursors.inc(),
            Body::Command => stats.command.inc(),
            Body::CommandReply => stats.command_reply.inc(),
            Body::Insert { collection } => {
                self.note(mongo, collection, "insert");
                stats.insert.inc();
            }
            Body::Query {
                flags,
                collection,
                query,
            } => {
                self.note(mongo, collection, "query");
                stats.query.inc();
                count_query(mongo, flags, collection, query)?;
                if self.active.len() < MAX_ACTIVE
                    && let Some(entered) = stats.query_active.enter(u64::MAX)
                {
                    self.active.push((message.id, entered));
                }
            }
            Body::Reply { flags, cursor } => {
                stats.reply.inc();
                let flagged = [
                    (cursor != 0, "op_reply_valid_cursor"),
                    (flags & 1 != 0, "op_reply_cursor_not_found"),
                    (flags & 2 != 0, "op_reply_query_failure"),
                ];
                count_flags(stats, flagged);
                let answered = |(id, _): &(i32, Entered)| *id == message.response_to;
                if let Some(at) = self.active.iter().position(answered) {
                    self.active.remove(at);
                }
            }
        }
        Some(())
    }

    fn note(&mut self, mongo: &Mongo, collection: &str, operation: &str) {
        if !mongo.config.emit_metadata {
            return;
        }
        let mut list = match self.metadata.get(NAMESPACE, &[collection]) {
            Some(Value::List(list)) => list.clone(),
            _ => Vec::new(),
        };
        list.push(Value::String(operation.into()));
        self.metadata.set(NAMESPACE, collection, Value::List(list));
    }
}

fn count_flags<const N: usize>(stats: &Stats, flags: [(bool, &str); N]) {
    for (set, name) in flags {
        if set {
            stats.named(name).inc();
        }
    }
}

/// Commands are counted by name, queries by collection and by where they come from.
fn count_query(mongo: &Mongo, flags: i32, collection: &str, query: Document<'_>) -> Option<()> {
    let stats = &mongo.stats;
    let flagged = [
        (flags & 0x02 != 0, "op_query_tailable_cursor"),
        (flags & 0x10 != 0, "op_query_no_cursor_timeout"),
        (flags & 0x20 != 0, "op_query_await_data"),
        (flags & 0x40 != 0, "op_query_exhaust"),
    ];
    count_flags(stats, flagged);
    let asked = if collection.contains("$cmd") {
        let command = match query.find("$query") {
            Some(Field::Document(inner)) => inner,
            _ => query,
        };
        let (name, value) = command.first()?;
        let name = std::str::from_utf8(name).ok()?;
        if name != "find" {
            let name = canonical(name);
            let known = mongo.config.commands.iter().any(|known| known == name);
            let shown = if known { name } else { "unknown_command" };
            stats.named(&format!("cmd.{shown}.total")).inc();
            return Some(());
        }
        find_command(command, value)?
    } else {
        plain_query(collection, query)?
    };
    asked.count(stats);
    Some(())
}

/// Spellings that stand for the same command.
fn canonical(command: &str) -> &str {
    match command {
        "collstats" => "collStats",
        "dbstats" => "dbStats",
        "findandmodify" => "findAndModify",
        "getlasterror" => "getLastError",
        "ismaster" => "isMaster",
        other => other,
    }
}

/// What a query asks for.
struct Asked<'a> {
    collection: &'a str,
    callsite: Option<Str>,
    limited: bool,
    by: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One `_id`.
    PrimaryKey,
    /// Several.
    MultiGet,
    /// No `_id`: every shard.
    ScatterGet,
}

impl Kind {
    fn of(query: Document<'_>) -> Self {
        match query.find("_id") {
            None => Self::ScatterGet,
            Some(Field::Document(_) | Field::Array) => Self::MultiGet,
            Some(_) => Self::PrimaryKey,
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::PrimaryKey => None,
            Self::MultiGet => Some("multi_get"),
            Self::ScatterGet => Some("scatter_get"),
        }
    }
}

impl Asked<'_> {
    fn count(&self, stats: &Stats) {
        let of_collection = format!("collection.{}.", self.collection);
        let of_callsite = self
            .callsite
            .as_ref()
            .map(|site| format!("{of_collection}callsite.{site}."));
        for scope in std::iter::once(of_collection).chain(of_callsite) {
            stats.named(&format!("{scope}query.total")).inc();
            if let Some(kind) = self.by.name() {
                stats.named(&format!("{scope}query.{kind}")).inc();
            }
        }
        if !self.limited {
            stats.named("op_query_no_max_time").inc();
        }
        if let Some(kind) = self.by.name() {
            stats.named(&format!("op_query_{kind}")).inc();
        }
    }
}

fn plain_query<'a>(collection: &'a str, query: Document<'a>) -> Option<Asked<'a>> {
    let (_, collection) = collection.split_once('.')?;
    let limit = query.find("$maxTimeMS").or_else(|| query.find("maxTimeMS"));
    let inner = match query.find("$query") {
        Some(Field::Document(inner)) => Some(inner),
        _ => None,
    };
    let by = match (Kind::of(query), inner) {
        (Kind::ScatterGet, Some(inner)) => Kind::of(inner),
        (kind, _) => kind,
    };
    Some(Asked {
        collection,
        callsite: callsite(query, "$comment"),
        limited: matches!(limit, Some(Field::Int(millis)) if millis >= 1),
        by,
    })
}

fn find_command<'a>(command: Document<'a>, collection: Field<'a>) -> Option<Asked<'a>> {
    let Field::Text(collection) = collection else {
        return None;
    };
    Some(Asked {
        collection,
        callsite: callsite(command, "comment"),
        limited: false,
        by: match command.find("filter") {
            Some(Field::Document(filter)) => Kind::of(filter),
            _ => Kind::ScatterGet,
        },
    })
}

/// The function that asks, when the query's comment is JSON that names one.
fn callsite(query: Document<'_>, name: &str) -> Option<Str> {
    let Some(Field::Text(comment)) = query.find(name) else {
        return None;
    };
    let json: serde_json::Value = serde_json::from_str(comment).ok()?;
    let site = json.get("callingFunction")?.as_str()?;
    (!site.is_empty()).then(|| site.into())
}
