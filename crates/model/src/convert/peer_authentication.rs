//! PeerAuthentication objects.

use std::collections::BTreeMap;

use meltemi_names::Labels;
use serde_json::Value;

use super::ConvertError;
use crate::kubernetes as k8s;
use crate::peer_authentication::{MutualTls, PeerAuthentication};

pub(crate) fn convert(value: &Value) -> Result<PeerAuthentication, ConvertError> {
    let object: k8s::PeerAuthentication =
        k8s::read(value).map_err(|source| ConvertError::Shape { source })?;
    let mut ports = BTreeMap::new();
    for (port, mtls) in &object.spec.port_level_mtls {
        let field = || format!("spec.portLevelMtls.{port}");
        let number = port
            .parse()
            .map_err(|_| ConvertError::value(field(), "is not a port"))?;
        ports.insert(number, mode(field(), &mtls.mode)?);
    }
    let selector = object
        .spec
        .selector
        .map(|selector| selector.match_labels)
        .filter(|labels| !labels.is_empty());
    Ok(PeerAuthentication {
        meta: object.metadata.meta(),
        selector: selector.map(|labels| labels.into_iter().collect::<Labels>()),
        mode: object
            .spec
            .mtls
            .map_or(Ok(None), |mtls| mode("spec.mtls.mode".into(), &mtls.mode))?,
        ports,
    })
}

fn mode(field: String, text: &str) -> Result<Option<MutualTls>, ConvertError> {
    match text {
        "" | "UNSET" => Ok(None),
        "DISABLE" => Ok(Some(MutualTls::Disable)),
        "PERMISSIVE" => Ok(Some(MutualTls::Permissive)),
        "STRICT" => Ok(Some(MutualTls::Strict)),
        other => Err(ConvertError::value(
            field,
            format!("`{other}` is not one of DISABLE, PERMISSIVE, STRICT"),
        )),
    }
}
