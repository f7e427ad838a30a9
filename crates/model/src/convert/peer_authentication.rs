//! PeerAuthentication objects.

use std::collections::BTreeMap;

use meltemi_api::peer_authentication as api;
use serde_json::Value;

use super::{ConvertError, labels_of, meta_of};
use crate::peer_authentication::{MutualTls, PeerAuthentication};

pub(crate) fn convert(value: &Value) -> Result<PeerAuthentication, ConvertError> {
    let object = meltemi_api::Object::<api::PeerAuthentication>::from_value(value)?;
    let spec = &object.spec;
    let mut ports = BTreeMap::new();
    for (port, wanted) in &spec.port_level_mtls {
        let field = || format!("spec.portLevelMtls.{port}");
        let number = port
            .parse()
            .map_err(|_| ConvertError::value(field(), "is not a port"))?;
        ports.insert(number, mode(wanted.mode));
    }
    let labels = spec
        .selector
        .as_ref()
        .map(|selector| &selector.match_labels);
    Ok(PeerAuthentication {
        meta: meta_of(&object.metadata),
        selector: labels.filter(|labels| !labels.is_empty()).map(labels_of),
        mode: spec.mtls.as_ref().and_then(|wanted| mode(wanted.mode)),
        ports,
    })
}

fn mode(written: api::MutualTlsMode) -> Option<MutualTls> {
    match written {
        api::MutualTlsMode::Unset => None,
        api::MutualTlsMode::Disable => Some(MutualTls::Disable),
        api::MutualTlsMode::Permissive => Some(MutualTls::Permissive),
        api::MutualTlsMode::Strict => Some(MutualTls::Strict),
    }
}
