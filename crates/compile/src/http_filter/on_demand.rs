//! `on_demand`: virtual hosts and clusters that are asked for when a request needs them.

use meltemi_traffic::discovery::Source;
use meltemi_traffic::hcm::{OnDemand, OnDemandClusters};

use crate::pb::http_filters as filters;
use crate::refusal::{Compiled, Within, refuse_field};
use crate::values::duration;

/// Clusters come by name, so by a stream that is asked for them.
pub(super) fn on_demand(odcds: Option<&filters::on_demand::v3::OnDemandCds>) -> Compiled<OnDemand> {
    let Some(odcds) = odcds else {
        return Ok(OnDemand::default());
    };
    if !odcds.resources_locator.is_empty() {
        return refuse_field("odcds.resources_locator", "not supported");
    }
    let Some(from) = &odcds.source else {
        return refuse_field("odcds.source", "is required");
    };
    let (source, _) = crate::source::source(from).within("odcds.source")?;
    if matches!(source, Source::File(_)) {
        return refuse_field("odcds.source", "clusters on demand cannot come from a file");
    }
    let timeout = odcds.timeout.as_ref().map(duration).transpose();
    Ok(OnDemand {
        clusters: Some(OnDemandClusters {
            source,
            timeout: timeout.within("odcds.timeout")?,
        }),
    })
}
