//! Messages of MongoDB's wire protocol, as far as statistics ask for them: those from before `OP_MSG`, which is what
//! Envoy's `mongo_proxy` knows too.
//!
//! A message is looked at where it lies; documents are checked once and then searched by name.

mod bson;

pub use bson::{Document, Field};

/// Longest message that is looked at. Longer ones pass, but nothing is told of them.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Length, request id, id answered, operation.
const HEADER: usize = 16;

/// These bytes are no message, or one that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message of this protocol")]
pub struct Malformed;

/// A message with its header.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its number.
    pub id: i32,
    /// Number of the message that it answers.
    pub response_to: i32,
    /// Bytes that it occupies.
    pub len: usize,
    /// What it asks or says.
    pub body: Body<'a>,
}

/// What a message asks or says.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// `OP_REPLY`.
    Reply {
        /// Flags.
        flags: i32,
        /// Cursor to read on with; 0 is none.
        cursor: i64,
    },
    /// `OP_QUERY`.
    Query {
        /// Flags.
        flags: i32,
        /// `database.collection`.
        collection: &'a str,
        /// What is asked for.
        query: Document<'a>,
    },
    /// `OP_GET_MORE`.
    GetMore,
    /// `OP_INSERT`.
    Insert {
        /// `database.collection`.
        collection: &'a str,
    },
    /// `OP_KILL_CURSORS`.
    KillCursors,
    /// `OP_COMMAND`.
    Command,
    /// `OP_COMMANDREPLY`.
    CommandReply,
}

/// The first message of `bytes`; `None` when it is not whole yet.
///
/// # Errors
/// [`Malformed`], also for a message longer than [`MAX_MESSAGE`].
pub fn first(bytes: &[u8], max_depth: u32) -> Result<Option<Message<'_>>, Malformed> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| Malformed)?;
    if !(HEADER..=MAX_MESSAGE).contains(&length) {
        return Err(Malformed);
    }
    let Some(message) = bytes.get(..length) else {
        return Ok(None);
    };
    let mut reader = Reader(&message[4..]);
    let (id, response_to, operation) = (reader.int32()?, reader.int32()?, reader.int32()?);
    Ok(Some(Message {
        id,
        response_to,
        len: length,
        body: body(operation, &mut reader, max_depth)?,
    }))
}

fn body<'a>(
    operation: i32,
    reader: &mut Reader<'a>,
    max_depth: u32,
) -> Result<Body<'a>, Malformed> {
    Ok(match operation {
        1 => {
            let (flags, cursor) = (reader.int32()?, reader.int64()?);
            reader.int32()?;
            for _ in 0..reader.int32()? {
                Document::read(reader, max_depth)?;
            }
            Body::Reply { flags, cursor }
        }
        2002 => {
            reader.int32()?;
            let collection = reader.text()?;
            while !reader.0.is_empty() {
                Document::read(reader, max_depth)?;
            }
            Body::Insert { collection }
        }
        2004 => {
            let (flags, collection) = (reader.int32()?, reader.text()?);
            reader.int64()?;
            let query = Document::read(reader, max_depth)?;
            if !reader.0.is_empty() {
                Document::read(reader, max_depth)?;
            }
            Body::Query {
                flags,
                collection,
                query,
            }
        }
        2005 => {
            reader.int32()?;
            reader.text()?;
            reader.int32()?;
            reader.int64()?;
            Body::GetMore
        }
        2007 => {
            reader.int32()?;
            for _ in 0..reader.int32()? {
                reader.int64()?;
            }
            Body::KillCursors
        }
        2010 => {
            reader.text()?;
            reader.text()?;
            documents(reader, max_depth)?;
            Body::Command
        }
        2011 => {
            documents(reader, max_depth)?;
            Body::CommandReply
        }
        _ => return Err(Malformed),
    })
}

/// Metadata, arguments or reply, and more.
fn documents(reader: &mut Reader<'_>, max_depth: u32) -> Result<(), Malformed> {
    Document::read(reader, max_depth)?;
    Document::read(reader, max_depth)?;
    while !reader.0.is_empty() {
        Document::read(reader, max_depth)?;
    }
    Ok(())
}

/// What is left of a message.
#[derive(Debug, Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn int32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    fn int64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// Bytes up to a zero, which goes too.
    fn zero_ended(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
        let taken = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(taken)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.zero_ended()?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn message(operation: i32, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(HEADER + body.len()).unwrap();
        let mut out = Vec::new();
        for number in [length, 7, 0, operation] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(body);
        out
    }

    fn query() -> Vec<u8> {
        let mut body = vec![0, 0, 0, 0];
        body.extend_from_slice(b"db.users\0");
        body.extend_from_slice(&[0; 8]);
        // {"_id": 1}
        body.extend_from_slice(&[14, 0, 0, 0, 0x10]);
        body.extend_from_slice(b"_id\0\x01\0\0\0\0");
        message(2004, &body)
    }

    #[test]
    fn a_query_names_its_collection() {
        let bytes = query();
        let read = first(&bytes, 10).unwrap().unwrap();
        assert_eq!((read.id, read.len), (7, bytes.len()));
        let Body::Query {
            collection, query, ..
        } = read.body
        else {
            panic!("{read:?}");
        };
        assert_eq!(collection, "db.users");
        assert!(matches!(query.find("_id"), Some(Field::Int(1))));
        assert!(first(&bytes[..bytes.len() - 1], 10).unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(first(&message(2013, &[]), 10).is_err());
        assert!(first(&[0xFF; 16], 10).is_err());
        assert!(first(&message(2004, b"cut"), 10).is_err());
        let mut long = i32::MAX.to_le_bytes().to_vec();
        long.extend_from_slice(&[0; 12]);
        assert!(first(&long, 10).is_err());
    }
}
