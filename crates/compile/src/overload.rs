//! The overload manager of a bootstrap.

use std::time::Duration;

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::config::overload::v3 as pb;
use meltemi_proto::envoy::extensions::resource_monitors as monitors;
use meltemi_traffic::overload::{Action, ActionKind, Monitor, OverloadManager, Trigger};

use crate::filter_config::decode;
use crate::refusal::{Compiled, Within, each, refuse_field};
use crate::values::positive_or;

const DEFAULT_REFRESH: Duration = Duration::from_secs(1);
const FIXED_HEAP: &str = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
const CONNECTIONS: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";

/// What a bootstrap's overload manager asks for.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    /// Monitors and actions, when there is anything to measure.
    pub manager: Option<OverloadManager>,
    /// Most downstream connections of the process.
    pub max_connections: Option<u64>,
}

/// `OverloadManager`.
pub(crate) fn overload(message: &pb::OverloadManager) -> Compiled<Overload> {
    let mut out = Overload::default();
    let mut measured = Vec::new();
    for (position, monitor) in message.resource_monitors.iter().enumerate() {
        match resource(monitor).item("resource_monitors", position)? {
            Resource::Heap(monitor) => measured.push(monitor),
            Resource::Connections(max) => out.max_connections = Some(max),
        }
    }
    let actions = each("actions", &message.actions, |each| action(each, &measured))?;
    if !measured.is_empty() {
        out.manager = Some(OverloadManager {
            refresh: positive_or(
                "refresh_interval",
                message.refresh_interval.as_ref(),
                DEFAULT_REFRESH,
            )?,
            monitors: measured,
            actions,
        });
    }
    Ok(out)
}

enum Resource {
    Heap(Monitor),
    Connections(u64),
}

fn resource(message: &pb::ResourceMonitor) -> Compiled<Resource> {
    let Some(pb::resource_monitor::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse_field("typed_config", "is required");
    };
    match type_name(&any.type_url) {
        FIXED_HEAP => {
            let config: monitors::fixed_heap::v3::FixedHeapConfig =
                decode(any).within("typed_config")?;
            Ok(Resource::Heap(Monitor {
                name: message.name.as_str().into(),
                max_heap: config.max_heap_size_bytes,
            }))
        }
        CONNECTIONS => {
            let config: monitors::downstream_connections::v3::DownstreamConnectionsConfig =
                decode(any).within("typed_config")?;
            let max = config.max_active_downstream_connections;
            Ok(Resource::Connections(u64::try_from(max).unwrap_or(0)))
        }
        other => refuse_field(
            "typed_config",
            format!("resource monitor {other} is not supported"),
        ),
    }
}

fn action(message: &pb::OverloadAction, monitors: &[Monitor]) -> Compiled<Action> {
    let kind = match message.name.as_str() {
        "envoy.overload_actions.stop_accepting_requests" => ActionKind::StopAcceptingRequests,
        "envoy.overload_actions.disable_http_keepalive" => ActionKind::DisableKeepalive,
        "envoy.overload_actions.stop_accepting_connections" => ActionKind::StopAcceptingConnections,
        "envoy.overload_actions.reject_incoming_connections" => ActionKind::RejectConnections,
        "envoy.overload_actions.shrink_heap" => ActionKind::ShrinkHeap,
        other => return refuse_field("name", format!("action {other} is not supported")),
    };
    let triggers = each("triggers", &message.triggers, |message| {
        let Some(monitor) = monitors.iter().position(|have| have.name == message.name) else {
            let reason = format!("no resource monitor is called {:?}", message.name);
            return refuse_field("name", reason);
        };
        use pb::trigger::TriggerOneof;
        let trigger = match &message.trigger_oneof {
            Some(TriggerOneof::Threshold(threshold)) => Trigger::Threshold(threshold.value),
            Some(TriggerOneof::Scaled(scaled)) => {
                if scaled.scaling_threshold >= scaled.saturation_threshold {
                    let reason = "scaling_threshold must be less than saturation_threshold";
                    return refuse_field("scaled", reason);
                }
                Trigger::Scaled(scaled.scaling_threshold, scaled.saturation_threshold)
            }
            None => return refuse_field("threshold", "a trigger is required"),
        };
        Ok((monitor, trigger))
    })?;
    Ok(Action { kind, triggers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(yaml: serde_json::Value) -> Result<Overload, String> {
        let message: pb::OverloadManager =
            meltemi_proto::json::parse(&yaml).map_err(|error| error.to_string())?;
        overload(&message).map_err(|refusal| refusal.to_string())
    }

    fn heap() -> serde_json::Value {
        serde_json::json!({ "name": "heap", "typed_config": {
            "@type": format!("type.googleapis.com/{FIXED_HEAP}"), "max_heap_size_bytes": 1000 } })
    }

    #[test]
    fn monitors_and_actions_are_linked_by_name() {
        let out = compiled(serde_json::json!({
            "refresh_interval": "0.25s",
            "resource_monitors": [heap(), { "name": "connections", "typed_config": {
                "@type": format!("type.googleapis.com/{CONNECTIONS}"), "max_active_downstream_connections": 7 } }],
            "actions": [{ "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{ "name": "heap", "scaled": { "scaling_threshold": 0.5, "saturation_threshold": 1.0 } }] }],
        }))
        .unwrap();
        assert_eq!(out.max_connections, Some(7));
        let manager = out.manager.unwrap();
        assert_eq!(manager.refresh, Duration::from_millis(250));
        let strength = |p| manager.strength(ActionKind::StopAcceptingRequests, &[p]);
        assert_eq!((strength(0.4), strength(0.75)), (0.0, 0.5));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        let unknown_action = compiled(serde_json::json!({
            "resource_monitors": [heap()],
            "actions": [{ "name": "envoy.overload_actions.reduce_timeouts",
                "triggers": [{ "name": "heap", "threshold": { "value": 0.9 } }] }],
        }));
        assert!(unknown_action.unwrap_err().contains("reduce_timeouts"));
        let unknown_monitor = compiled(serde_json::json!({
            "actions": [{ "name": "envoy.overload_actions.shrink_heap",
                "triggers": [{ "name": "heap", "threshold": { "value": 0.9 } }] }],
        }));
        assert!(unknown_monitor.unwrap_err().contains("heap"));
    }
}
