//! `envoy.filters.http.buffer`: the request goes on when all of it is there.

use http::StatusCode;

use crate::stage::{Answer, ReadAhead, Stage, Stop};

/// Waits for the whole request.
pub(super) async fn on_request<S: Stage>(max: u32, stage: &mut S) -> Result<(), Stop> {
    if stage.bodyless() {
        return Ok(());
    }
    match stage.read_ahead(u64::from(max)).await? {
        ReadAhead::Complete => {
            let (head, tail) = stage.body();
            let length = head
                .iter()
                .chain(tail)
                .map(|piece| piece.len() as u64)
                .sum();
            stage.set_length(length);
            Ok(())
        }
        ReadAhead::TooLong => Err(too_large().into()),
    }
}

/// The answer to a request that does not fit.
pub(super) fn too_large() -> Answer {
    let mut answer = Answer::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "Payload Too Large",
        "request_payload_too_large",
    );
    answer.close = true;
    answer
}
