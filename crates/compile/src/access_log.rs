//! Access logs: where entries go, how they look, which exchanges they are for.

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::extensions::access_loggers;
use meltemi_traffic::access::{AccessLog, Comparison, LogFilter, LogSink};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::format::{Format, JsonNode, LogFormat};
use meltemi_traffic::{Fraction, Str};

use crate::filter_config::decode;
use crate::pb::{accesslog, core, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{header_matcher, inline_data, metadata_matcher, value_of};

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
            (
                als(message.common_config.as_ref(), false)?,
                LogFormat::envoy_default(),
            )
        }
        "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig" => {
            let message: grpc::v3::TcpGrpcAccessLogConfig = decode(any)?;
            (
                als(message.common_config.as_ref(), true)?,
                LogFormat::envoy_default(),
            )
        }
        other => return refuse(format!("access logger {other} is not supported")),
    })
}

fn als(
    common: Option<&access_loggers::grpc::v3::CommonGrpcAccessLogConfig>,
    tcp: bool,
) -> Compiled<LogSink> {
    use core::grpc_service::TargetSpecifier;
    let Some(common) = common else {
        return refuse_field("common_config", "is required");
    };
    let target = common
        .grpc_service
        .as_ref()
        .and_then(|service| service.target_specifier.as_ref());
    let Some(TargetSpecifier::EnvoyGrpc(target)) = target else {
        return refuse_field(
            "common_config.grpc_service",
            "must name a cluster by envoy_grpc",
        );
    };
    Ok(LogSink::Als {
        log_name: common.log_name.as_str().into(),
        cluster: target.cluster_name.as_str().into(),
        tcp,
    })
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
