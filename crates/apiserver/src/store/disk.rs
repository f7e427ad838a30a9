//! The durable side of the store: one redb table of objects and the revision counter.
//!
//! A commit returns after its fsync. After an I/O error redb refuses further work, so the database
//! is reopened and read back before the next commit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition,
};

use super::memory::Loaded;
use super::{Event, EventKind, Key, StoreError, Stored};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// Prefix of the rows that hold each resource's last change.
const LAST_CHANGE: &str = "last-change/";

/// Pages kept by redb: all objects are in memory already, so only the tree's inner pages matter.
const CACHE_BYTES: usize = 1 << 20;

/// Makes a fresh backend over the same medium each time the database is (re)opened.
pub type BackendFactory = Box<dyn Fn() -> Box<dyn StorageBackend> + Send>;

enum Medium {
    File(PathBuf),
    Backend(BackendFactory),
}

/// The database and how to reopen it.
pub(super) struct Disk {
    medium: Medium,
    database: Option<Database>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

/// Lets a boxed backend be handed to redb, which wants a concrete type.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.0.close()
    }
}

impl Disk {
    pub(super) fn file(path: &Path) -> Self {
        Self {
            medium: Medium::File(path.to_owned()),
            database: None,
        }
    }

    pub(super) fn backend(factory: BackendFactory) -> Self {
        Self {
            medium: Medium::Backend(factory),
            database: None,
        }
    }

    /// Opens the database if it is not open and reads everything.
    pub(super) fn load(&mut self) -> Result<Loaded, StoreError> {
        self.database = None;
        let database = self.open()?;
        let loaded = read_all(&database).map_err(storage)?;
        self.database = Some(database);
        Ok(loaded)
    }

    fn open(&self) -> Result<Database, StoreError> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        match &self.medium {
            Medium::File(path) => {
                let fresh = !path.exists();
                let database = builder.create(path).map_err(|error| match error {
                    DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
                    other => StoreError::Storage {
                        reason: other.to_string(),
                    },
                })?;
                if fresh {
                    sync_parent(path)?;
                }
                Ok(database)
            }
            Medium::Backend(factory) => builder
                .create_with_backend(Boxed(factory()))
                .map_err(storage),
        }
    }

    /// Makes a batch durable. On error the database is closed: [`Disk::load`] before going on.
    pub(super) fn commit(&mut self, events: &[Event]) -> Result<(), StoreError> {
        let database = self.database.as_ref().ok_or_else(|| StoreError::Storage {
            reason: "the database is closed after an earlier error".into(),
        })?;
        let result = write_batch(database, events).map_err(storage);
        if result.is_err() {
            self.database = None;
        }
        result
    }

    /// Makes a revision durable that no object carries, so that it is never given out again.
    pub(super) fn skip_to(&mut self, revision: u64) -> Result<(), StoreError> {
        let Some(database) = &self.database else {
            return Ok(());
        };
        let result = write_revision(database, revision).map_err(storage);
        if result.is_err() {
            self.database = None;
        }
        result
    }

    pub(super) fn is_open(&self) -> bool {
        self.database.is_some()
    }
}

/// A new file's name is durable only after its directory is synced.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    std::fs::File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| StoreError::Storage {
            reason: format!("sync {}: {e}", parent.display()),
        })
}

fn write_batch(database: &Database, events: &[Event]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        let mut value = Vec::new();
        for event in events {
            let key = encode_key(&event.key);
            if event.kind == EventKind::Deleted {
                objects.remove(key.as_str())?;
            } else {
                value.clear();
                value.extend_from_slice(&event.object.revision.to_le_bytes());
                value.extend_from_slice(&event.object.json);
                objects.insert(key.as_str(), value.as_slice())?;
            }
        }
        let mut meta = transaction.open_table(META)?;
        if let Some(last) = events.last() {
            meta.insert(REVISION, last.revision)?;
        }
        let last_changes: BTreeMap<&str, u64> = events
            .iter()
            .map(|e| (&*e.key.resource, e.revision))
            .collect();
        for (resource, revision) in last_changes {
            meta.insert(format!("{LAST_CHANGE}{resource}").as_str(), revision)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn write_revision(database: &Database, revision: u64) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.open_table(META)?.insert(REVISION, revision)?;
    transaction.commit()?;
    Ok(())
}

fn read_all(database: &Database) -> Result<Loaded, redb::Error> {
    // Creating both tables first means that reading never meets a missing one.
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(META)?;
    transaction.commit()?;

    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let revision = meta.get(REVISION)?.map_or(0, |guard| guard.value());
    let mut last_changes = HashMap::new();
    for row in meta.iter()? {
        let (name, value) = row?;
        if let Some(resource) = name.value().strip_prefix(LAST_CHANGE) {
            last_changes.insert(resource.into(), value.value());
        }
    }
    let mut objects = BTreeMap::new();
    let mut resources: BTreeMap<String, Arc<str>> = BTreeMap::new();
    for row in transaction.open_table(OBJECTS)?.iter()? {
        let (key, value) = row?;
        if let Some((key, stored)) = decode_row(&mut resources, key.value(), value.value()) {
            objects.insert(key, Arc::new(stored));
        }
    }
    Ok(Loaded {
        revision,
        objects,
        last_changes,
    })
}

/// `resource NUL namespace NUL name`: sorts like [`Key`], and none of the parts can hold a NUL.
fn encode_key(key: &Key) -> String {
    format!("{}\0{}\0{}", key.resource, key.namespace, key.name)
}

fn decode_row(
    resources: &mut BTreeMap<String, Arc<str>>,
    key: &str,
    value: &[u8],
) -> Option<(Key, Stored)> {
    let mut parts = key.splitn(3, '\0');
    let (resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let resource = resources
        .entry(resource.to_owned())
        .or_insert_with(|| resource.into());
    let (revision, json) = value.split_first_chunk::<8>()?;
    let stored = Stored {
        revision: u64::from_le_bytes(*revision),
        json: Bytes::copy_from_slice(json),
    };
    Some((Key::new(resource, namespace, name), stored))
}

fn storage(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Storage {
        reason: error.into().to_string(),
    }
}
