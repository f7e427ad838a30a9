//! ClusterIPs: chosen from the service range when a Service is created, kept while it lives.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::field::FieldError;
use crate::kinds::Resource;
use crate::state::Api;
use crate::status::{ApiError, ApiResult};

/// The service range, 10.96.0.0/16.
const RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
/// Addresses below this offset go to whoever asks for them by number (`kubernetes` .1, DNS .10).
const FIRST_DYNAMIC: u32 = 16;

/// Fills the address fields of a new Service. The caller holds the allocation lock until it is stored.
pub(crate) fn allocate(api: &Api, resource: &Resource, service: &mut Value) -> ApiResult<()> {
    if service["spec"]["type"] == "ExternalName" {
        return Ok(());
    }
    let asked = service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let address = match asked.as_str() {
        "None" => "None".to_owned(),
        "" => free(api)?.to_string(),
        text => {
            check(api, text).map_err(|detail| {
                let name = service["metadata"]["name"].as_str().unwrap_or_default();
                let error = FieldError::invalid("spec.clusterIPs", &json!([text]), &detail);
                ApiError::invalid(resource, name, &[error])
            })?;
            text.to_owned()
        }
    };
    let spec = &mut service["spec"];
    spec["clusterIP"] = json!(address);
    spec["clusterIPs"] = json!([address]);
    if spec["ipFamilies"].is_null() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    Ok(())
}

/// Address fields that an update left out stay as they were.
pub(crate) fn carry_over(service: &mut Value, old: &Value) {
    if service["spec"]["type"] == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let absent = match &service["spec"][field] {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            _ => false,
        };
        if absent && let Some(value) = old["spec"].get(field) {
            service["spec"][field] = value.clone();
        }
    }
}

fn used(api: &Api) -> HashSet<String> {
    let services = api.resource_key("services");
    api.store
        .list(&services, None, None)
        .map(|snapshot| snapshot.items)
        .unwrap_or_default()
        .iter()
        .filter_map(|(_, s)| s.value()["spec"]["clusterIP"].as_str().map(str::to_owned))
        .collect()
}

fn free(api: &Api) -> ApiResult<Ipv4Addr> {
    let used = used(api);
    let base = u32::from(RANGE.0);
    let size = 1u32 << (32 - RANGE.1);
    // The last address is the broadcast's.
    let dynamic = FIRST_DYNAMIC..size - 1;
    let start = fastrand::u32(dynamic.clone());
    (start..dynamic.end)
        .chain(dynamic.start..start)
        .map(|offset| Ipv4Addr::from(base + offset))
        .find(|address| !used.contains(&address.to_string()))
        .ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))
}

fn check(api: &Api, text: &str) -> Result<(), String> {
    let address: Ipv4Addr = text
        .parse()
        .map_err(|_| "must be empty, 'None', or a valid IPv4 address".to_owned())?;
    let mask = u32::MAX << (32 - RANGE.1);
    if u32::from(address) & mask != u32::from(RANGE.0) {
        return Err(format!(
            "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. \
             The range of valid IPs is {}/{}",
            RANGE.0, RANGE.1
        ));
    }
    if used(api).contains(text) {
        return Err(format!(
            "failed to allocate IP {text}: provided IP is already allocated"
        ));
    }
    Ok(())
}
