//! Access logs: where entries go, how they look, which exchanges they are for.

use std::sync::Arc;

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::extensions::access_loggers;
use meltemi_proto::opentelemetry::proto::common::v1 as otel;
use meltemi_traffic::access::{AccessLog, Comparison, LogFilter, LogSink};
use meltemi_traffic::collector::{AlsLog, Collector, OtelLog};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::format::{Format, JsonNode, LogFormat};
use meltemi_traffic::metadata::Value::{Bool, Number};
use meltemi_traffic::{Fraction, Str};

use crate::collector::{batching, grpc_target, http_target};
use crate::filter_config::decode;
use crate::hcm::tag_source;
use crate::pb::{accesslog, core, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{header_matcher, header_names, inline_data, metadata_matcher, value_of};

/// A list of logs.
pub(crate) fn access_logs(field: &str, list: &[accesslog::AccessLog]) -> Compiled<Vec<AccessLog>> {
    each(field, list, access_log)
}

fn access_log(message: &accesslog::AccessLog) -> Compiled<AccessLog> {
    let filter = message
        .filter
        .as_ref()
        .map(|filter| log_filter(filter).within("filter"))
        .transpose()?;
    let Some(accesslog::access_log::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse_field("typed_config", "is required");
    };
    let (sink, format) = sink(any).within("typed_config")?;
    Ok(AccessLog {
        filter,
        sink,
        format,
    })
}

fn sink(any: &wkt::Any) -> Compiled<(LogSink, LogFormat)> {
    use access_loggers::{file, grpc, stream};
    Ok(match type_name(&any.type_url) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let message: file::v3::FileAccessLog = decode(any)?;
            if message.path.is_empty() {
                return refuse_field("path", "must not be empty");
            }
            (
                LogSink::File(message.path.as_str().into()),
                file_format(message.access_log_format.as_ref())?,
            )
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            use stream::v3::stdout_access_log::AccessLogFormat;
            let message: stream::v3::StdoutAccessLog = decode(any)?;
            let format = message
                .access_log_format
                .map(|AccessLogFormat::LogFormat(format)| format);
            (LogSink::Stdout, own_format(format.as_ref())?)
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            use stream::v3::stderr_access_log::AccessLogFormat;
            let message: stream::v3::StderrAccessLog = decode(any)?;
            let format = message
                .access_log_format
                .map(|AccessLogFormat::LogFormat(format)| format);
            (LogSink::Stderr, own_format(format.as_ref())?)
        }
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig" => {
            let message: grpc::v3::HttpGrpcAccessLogConfig = decode(any)?;
            let mut log = als(message.common_config.as_ref(), false)?;
            let names = |field, list| header_names(field, list);
            log.request_headers = names(
                "additional_request_headers_to_log",
                &message.additional_request_headers_to_log,
            )?;
            log.response_headers = names(
                "additional_response_headers_to_log",
                &message.additional_response_headers_to_log,
            )?;
            log.response_trailers = names(
                "additional_response_trailers_to_log",
                &message.additional_response_trailers_to_log,
            )?;
            (LogSink::Als(Arc::new(log)), LogFormat::envoy_default())
        }
        "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig" => {
            let message: grpc::v3::TcpGrpcAccessLogConfig = decode(any)?;
            let log = als(message.common_config.as_ref(), true)?;
            (LogSink::Als(Arc::new(log)), LogFormat::envoy_default())
        }
        "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig" => {
            let log = open_telemetry(&decode(any)?)?;
            (
                LogSink::OpenTelemetry(Arc::new(log)),
                LogFormat::envoy_default(),
            )
        }
        other => return refuse(format!("access logger {other} is not supported")),
    })
}

fn als(
    common: Option<&access_loggers::grpc::v3::CommonGrpcAccessLogConfig>,
    tcp: bool,
) -> Compiled<AlsLog> {
    let Some(common) = common else {
        return refuse_field("common_config", "is required");
    };
    if common.log_name.is_empty() {
        return refuse_field("common_config.log_name", "must not be empty");
    }
    Ok(AlsLog {
        log_name: common.log_name.as_str().into(),
        target: grpc_target(common.grpc_service.as_ref()).within("common_config")?,
        tcp,
        batching: batching(
            common.buffer_flush_interval.as_ref(),
            common.buffer_size_bytes.as_ref(),
        )
        .within("common_config")?,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        response_trailers: Vec::new(),
        tags: each("common_config.custom_tags", &common.custom_tags, |tag| {
            Ok((Str::from(tag.tag.as_str()), tag_source(tag)?))
        })?,
    })
}

#[expect(deprecated, reason = "old forms are still sent")]
fn open_telemetry(
    message: &access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig,
) -> Compiled<OtelLog> {
    let common = message.common_config.as_ref();
    let collector = match (&message.http_service, &message.grpc_service) {
        (Some(service), _) => Collector::Http(http_target("http_service", service)?),
        (None, Some(service)) => Collector::Grpc(grpc_target(Some(service))?),
        (None, None) => Collector::Grpc(
            grpc_target(common.and_then(|common| common.grpc_service.as_ref()))
                .within("common_config")?,
        ),
    };
    let own_batching = || {
        batching(
            message.buffer_flush_interval.as_ref(),
            message.buffer_size_bytes.as_ref(),
        )
    };
    let attributes = message.attributes.iter().flat_map(|list| &list.values);
    let resource = message
        .resource_attributes
        .iter()
        .flat_map(|list| &list.values);
    Ok(OtelLog {
        log_name: common
            .map_or(message.log_name.as_str(), |common| common.log_name.as_str())
            .into(),
        collector,
        batching: match common {
            Some(common) => batching(
                common.buffer_flush_interval.as_ref(),
                common.buffer_size_bytes.as_ref(),
            )?,
            None => own_batching()?,
        },
        body: message
            .body
            .as_ref()
            .map(any_value)
            .transpose()
            .within("body")?
            .flatten(),
        attributes: pairs(attributes).within("attributes")?,
        resource: resource
            .filter_map(|pair| {
                use otel::any_value::Value;
                match pair.value.as_ref()?.value.as_ref()? {
                    Value::StringValue(text) => {
                        Some((Str::from(pair.key.as_str()), Str::from(text.as_str())))
                    }
                    _ => None,
                }
            })
            .collect(),
        builtin_labels: !message.disable_builtin_labels,
    })
}

fn pairs<'a>(list: impl Iterator<Item = &'a otel::KeyValue>) -> Compiled<Vec<(Str, JsonNode)>> {
    let mut out = Vec::new();
    for pair in list {
        if let Some(node) = pair
            .value
            .as_ref()
            .map(any_value)
            .transpose()
            .within(&pair.key)?
            .flatten()
        {
            out.push((Str::from(pair.key.as_str()), node));
        }
    }
    Ok(out)
}

/// A template of OpenTelemetry's value type; `None` for bytes, which no format has a place in.
fn any_value(message: &otel::AnyValue) -> Compiled<Option<JsonNode>> {
    use otel::any_value::Value;
    Ok(Some(match &message.value {
        Some(Value::StringValue(text)) => JsonNode::Format(parse(text)?),
        Some(Value::BoolValue(value)) => JsonNode::Literal(Bool(*value)),
        #[allow(clippy::cast_precision_loss, reason = "JSON numbers are doubles")]
        Some(Value::IntValue(value)) => JsonNode::Literal(Number(*value as f64)),
        Some(Value::DoubleValue(value)) => JsonNode::Literal(Number(*value)),
        Some(Value::KvlistValue(list)) => JsonNode::Object(pairs(list.values.iter())?),
        Some(Value::ArrayValue(list)) => {
            let mut items = Vec::new();
            for item in &list.values {
                items.extend(any_value(item)?);
            }
            JsonNode::List(items)
        }
        _ => return Ok(None),
    }))
}

#[expect(deprecated, reason = "old forms are still sent")]
fn file_format(
    message: Option<&access_loggers::file::v3::file_access_log::AccessLogFormat>,
) -> Compiled<LogFormat> {
    use access_loggers::file::v3::file_access_log::AccessLogFormat as By;
    match message {
        None => Ok(LogFormat::envoy_default()),
        Some(By::LogFormat(message)) => log_format(message).within("log_format"),
        Some(By::Format(text)) => text_format(text, false).within("format"),
        Some(By::JsonFormat(fields)) => json_format(fields, false, "json_format"),
        Some(By::TypedJsonFormat(fields)) => json_format(fields, false, "typed_json_format"),
    }
}

fn own_format(message: Option<&core::SubstitutionFormatString>) -> Compiled<LogFormat> {
    message.map_or_else(
        || Ok(LogFormat::envoy_default()),
        |message| log_format(message).within("log_format"),
    )
}

/// `SubstitutionFormatString`.
#[expect(deprecated, reason = "old forms are still sent")]
pub(crate) fn log_format(message: &core::SubstitutionFormatString) -> Compiled<LogFormat> {
    use core::substitution_format_string::Format as By;
    let omit = message.omit_empty_values;
    match &message.format {
        Some(By::TextFormat(text)) => text_format(text, omit).within("text_format"),
        Some(By::JsonFormat(fields)) => json_format(fields, omit, "json_format"),
        Some(By::TextFormatSource(source)) => {
            let bytes = inline_data(source).within("text_format_source")?;
            text_format(&String::from_utf8_lossy(&bytes), omit).within("text_format_source")
        }
        None => refuse("needs a format"),
    }
}

fn text_format(text: &str, omit_empty: bool) -> Compiled<LogFormat> {
    let line = parse(text)?;
    Ok(LogFormat::Text { line, omit_empty })
}

fn parse(text: &str) -> Compiled<Format> {
    Format::parse(text).or_else(|error| refuse(error.to_string()))
}

fn json_format(fields: &wkt::Struct, omit_empty: bool, field: &str) -> Compiled<LogFormat> {
    let root = object(fields).within(field)?;
    Ok(LogFormat::Json { root, omit_empty })
}

fn object(fields: &wkt::Struct) -> Compiled<JsonNode> {
    // The wire does not keep the order of a Struct; sorted keys at least do not change between updates.
    let mut sorted: Vec<_> = fields.fields.iter().collect();
    sorted.sort_by_key(|(key, _)| key.as_str());
    let nodes = sorted
        .into_iter()
        .map(|(key, value)| Ok((Str::from(key.as_str()), node(value).within(key)?)));
    Ok(JsonNode::Object(nodes.collect::<Compiled<_>>()?))
}

fn node(value: &wkt::Value) -> Compiled<JsonNode> {
    use wkt::value::Kind;
    Ok(match &value.kind {
        Some(Kind::StringValue(text)) => JsonNode::Format(parse(text)?),
        Some(Kind::StructValue(fields)) => object(fields)?,
        Some(Kind::ListValue(list)) => {
            JsonNode::List(list.values.iter().map(node).collect::<Compiled<_>>()?)
        }
        _ => JsonNode::Literal(value_of(value)),
    })
}

// table: kinds of filters
/// `AccessLogFilter`.
pub(crate) fn log_filter(message: &accesslog::AccessLogFilter) -> Compiled<LogFilter> {
    use accesslog::access_log_filter::FilterSpecifier as By;
    Ok(match &message.filter_specifier {
        Some(By::StatusCodeFilter(filter)) => {
            let (op, value) =
                comparison(filter.comparison.as_ref()).within("status_code_filter")?;
            LogFilter::Status(op, value)
        }
        Some(By::DurationFilter(filter)) => {
            let (op, value) = comparison(filter.comparison.as_ref()).within("duration_filter")?;
            LogFilter::Duration(op, value)
        }
        Some(By::NotHealthCheckFilter(_)) => LogFilter::NotHealthCheck,
        Some(By::TraceableFilter(_)) => LogFilter::Traceable,
        Some(By::RuntimeFilter(filter)) => {
            let share = filter.percent_sampled.as_ref();
            LogFilter::Runtime(crate::values::optional_fraction(share, Fraction::NONE))
        }
        Some(By::AndFilter(filter)) => {
            LogFilter::And(several(&filter.filters).within("and_filter")?)
        }
        Some(By::OrFilter(filter)) => LogFilter::Or(several(&filter.filters).within("or_filter")?),
        Some(By::HeaderFilter(filter)) => match &filter.header {
            Some(header) => LogFilter::Header(Box::new(
                header_matcher(header).within("header_filter.header")?,
            )),
            None => return refuse_field("header_filter.header", "is required"),
        },
        Some(By::ResponseFlagFilter(filter)) => {
            let flags = each("response_flag_filter.flags", &filter.flags, |name| {
                ResponseFlags::from_short(name)
                    .map_or_else(|| refuse(format!("{name} is no response flag")), Ok)
            })?;
            LogFilter::Flags(
                flags
                    .into_iter()
                    .fold(ResponseFlags::NONE, |all, flag| all | flag),
            )
        }
        Some(By::GrpcStatusFilter(filter)) => {
            let statuses = filter
                .statuses
                .iter()
                .map(|status| u32::try_from(*status).unwrap_or(u32::MAX));
            LogFilter::Grpc(statuses.collect(), filter.exclude)
        }
        Some(By::MetadataFilter(filter)) => match &filter.matcher {
            Some(matcher) => LogFilter::Metadata {
                matcher: Box::new(metadata_matcher(matcher).within("metadata_filter.matcher")?),
                when_missing: crate::values::flag(filter.match_if_key_not_found.as_ref(), true),
            },
            None => return refuse_field("metadata_filter.matcher", "is required"),
        },
        Some(By::LogTypeFilter(filter)) => {
            let names = filter.types().map(|kind| Str::from(kind.as_str_name()));
            LogFilter::LogType(names.collect(), filter.exclude)
        }
        Some(By::ExtensionFilter(filter)) => {
            return refuse_field(
                "extension_filter",
                format!("filter {} is not supported", filter.name),
            );
        }
        None => return refuse("needs a filter"),
    })
}

fn several(list: &[accesslog::AccessLogFilter]) -> Compiled<Vec<LogFilter>> {
    if list.len() < 2 {
        return refuse_field("filters", "needs at least two");
    }
    each("filters", list, log_filter)
}

fn comparison(message: Option<&accesslog::ComparisonFilter>) -> Compiled<(Comparison, u64)> {
    use accesslog::comparison_filter::Op;
    let Some(message) = message else {
        return refuse_field("comparison", "is required");
    };
    let op = match message.op() {
        Op::Eq => Comparison::Eq,
        Op::Ge => Comparison::Ge,
        Op::Le => Comparison::Le,
        Op::Ne => Comparison::Ne,
    };
    let value = message
        .value
        .as_ref()
        .map_or(0, |value| u64::from(value.default_value));
    Ok((op, value))
}
