//! A storage medium that loses what was not synced: the store's crash tests run on it.
//!
//! Writes land in a volatile image; `sync_data` copies it to the durable one. [`LossyMedium::crash`]
//! throws the volatile image away, which is what losing power with a full page cache does.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

#[derive(Debug, Default)]
struct Images {
    durable: Vec<u8>,
    volatile: Vec<u8>,
    /// After a crash, handles of the previous life fail instead of writing to the new one.
    life: u64,
    /// Writes and syncs allowed before the medium dies by itself.
    fuse: Option<u64>,
}

/// The medium; clones share it.
#[derive(Debug, Clone, Default)]
pub struct LossyMedium {
    images: Arc<Mutex<Images>>,
}

/// One opening of the medium.
#[derive(Debug)]
struct Handle {
    images: Arc<Mutex<Images>>,
    life: u64,
}

impl LossyMedium {
    /// An empty medium.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses everything that was not synced and cuts off whoever has it open.
    pub fn crash(&self) {
        let mut images = self.images.lock();
        images.volatile = images.durable.clone();
        images.life += 1;
        images.fuse = None;
    }

    /// Makes the medium fail after `operations` more writes or syncs, as a crash at that point would.
    pub fn fail_after(&self, operations: u64) {
        self.images.lock().fuse = Some(operations);
    }

    /// Opens the medium for redb.
    pub fn backend(&self) -> Box<dyn StorageBackend> {
        let life = self.images.lock().life;
        Box::new(Handle {
            images: Arc::clone(&self.images),
            life,
        })
    }
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut Images) -> io::Result<T>) -> io::Result<T> {
        let mut images = self.images.lock();
        if images.life != self.life {
            return Err(io::Error::other("the medium crashed"));
        }
        act(&mut images)
    }

    fn mutate(&self, act: impl FnOnce(&mut Images)) -> io::Result<()> {
        self.with(|images| {
            match &mut images.fuse {
                Some(0) => return Err(io::Error::other("the medium died")),
                Some(left) => *left -= 1,
                None => {}
            }
            act(images);
            Ok(())
        })
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(|images| Ok(images.volatile.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|images| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let bytes = images
                .volatile
                .get(start..start + out.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.mutate(|images| images.volatile.resize(len, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.mutate(|images| images.durable.clone_from(&images.volatile))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.mutate(|images| {
            let end = start + data.len();
            if images.volatile.len() < end {
                images.volatile.resize(end, 0);
            }
            images.volatile[start..end].copy_from_slice(data);
        })
    }
}
