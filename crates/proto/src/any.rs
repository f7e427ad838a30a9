//! `google.protobuf.Any`.

use prost::{DecodeError, Message, Name};

use crate::google::protobuf::Any;

/// Prefix of type URLs.
pub const TYPE_PREFIX: &str = "type.googleapis.com/";

/// Wraps a message.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: type_url::<M>(),
        value: message.encode_to_vec(),
    }
}

/// The type URL of a message.
#[must_use]
pub fn type_url<M: Name>() -> String {
    format!("{TYPE_PREFIX}{}", M::full_name())
}

/// The full message name in a type URL.
#[must_use]
pub fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// True when an `Any` holds this message.
#[must_use]
pub fn is<M: Name>(any: &Any) -> bool {
    let name = type_name(&any.type_url);
    name.strip_suffix(M::NAME)
        .and_then(|package| package.strip_suffix('.'))
        == Some(M::PACKAGE)
}

/// Unwraps a message of this type; `None` when it holds another.
///
/// # Errors
/// When the bytes do not decode.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<Option<M>, DecodeError> {
    if is::<M>(any) {
        M::decode(&any.value[..]).map(Some)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::listener::v3::Listener;

    #[test]
    fn an_any_unpacks_only_as_what_it_is() {
        let cluster = Cluster {
            name: "a".to_owned(),
            ..Cluster::default()
        };
        let any = pack(&cluster);
        assert_eq!(
            any.type_url,
            "type.googleapis.com/envoy.config.cluster.v3.Cluster"
        );
        assert_eq!(unpack::<Cluster>(&any), Ok(Some(cluster)));
        assert_eq!(unpack::<Listener>(&any), Ok(None));
    }
}
