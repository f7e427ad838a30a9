//! Filters that change headers.

use meltemi_proto::envoy::config::common::mutation_rules::v3 as rules;
use meltemi_traffic::hcm::HeaderMutation;
use meltemi_traffic::mutation::HeaderOp;

use crate::headers::set_header;
use crate::pb::http_filters as filters;
use crate::refusal::{Compiled, Within, each, refuse};
use crate::values::header_name;

pub(super) fn mutations(
    message: Option<&filters::header_mutation::v3::Mutations>,
) -> Compiled<HeaderMutation> {
    let Some(message) = message else {
        return Ok(HeaderMutation::default());
    };
    Ok(HeaderMutation {
        request: each(
            "mutations.request_mutations",
            &message.request_mutations,
            mutation,
        )?,
        response: each(
            "mutations.response_mutations",
            &message.response_mutations,
            mutation,
        )?,
    })
}

/// One change.
pub(crate) fn mutation(message: &rules::HeaderMutation) -> Compiled<HeaderOp> {
    use rules::header_mutation::Action;
    match &message.action {
        Some(Action::Remove(name)) => Ok(HeaderOp::Remove(header_name(name).within("remove")?)),
        Some(Action::Append(set)) => set_header(set).within("append"),
        _ => refuse("only remove and append are supported"),
    }
}
