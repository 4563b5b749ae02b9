//! Replies of OTLP destinations, read: the same messages that [`super::status`] writes.
//!
//! Nothing in here fails. A reply that says nothing that we can read says nothing: whether the request arrived
//! was settled by its status.

use std::time::Duration;

use super::wire::{Field, Fields, Value};

/// Text of a peer that is repeated to people is cut here.
const TEXT_BYTES_MAX: usize = 1000;

/// The `partial_success` of an Export…ServiceResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    pub rejected: u64,
    pub message: String,
}

/// What matters of a `google.rpc.Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pub message: String,
    /// Of a RetryInfo among the details.
    pub retry_delay: Option<Duration>,
}

/// Reads an Export…ServiceResponse.
pub fn read_response(message: &[u8]) -> Partial {
    let mut partial = Partial::default();
    for inner in messages(message, 1) {
        for field in Fields::checked(inner) {
            match (field.number, field.value) {
                // A negative count is nobody's meaning.
                (1, Value::Varint(rejected)) => {
                    partial.rejected = u64::try_from(rejected as i64).unwrap_or(0);
                }
                (2, Value::Bytes(text)) => partial.message = shown(text),
                _ => {}
            }
        }
    }
    partial
}

/// Reads a `google.rpc.Status`: an HTTP error's body, or gRPC's `grpc-status-details-bin`.
pub fn read_status(message: &[u8]) -> Explanation {
    let mut explanation = Explanation::default();
    for field in Fields::checked(message) {
        match (field.number, field.value) {
            (2, Value::Bytes(text)) => explanation.message = shown(text),
            (3, Value::Bytes(any)) => {
                explanation.retry_delay = retry_delay(any).or(explanation.retry_delay);
            }
            _ => {}
        }
    }
    explanation
}

/// For people: valid UTF-8 of bounded length without control characters.
pub fn shown(text: &[u8]) -> String {
    let cut = &text[..text.len().min(TEXT_BYTES_MAX)];
    let text = String::from_utf8_lossy(cut);
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

/// Of an `Any`, should it be a RetryInfo.
fn retry_delay(any: &[u8]) -> Option<Duration> {
    let type_url = messages(any, 1).last()?;
    if !type_url.ends_with(b"/google.rpc.RetryInfo") {
        return None;
    }
    // A RetryInfo without a delay asks to retry, and not for a wait.
    let info = messages(any, 2).last().unwrap_or_default();
    let duration = messages(info, 1).last().unwrap_or_default();
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::checked(duration) {
        match (field.number, field.value) {
            (1, Value::Varint(value)) => seconds = u64::try_from(value as i64).unwrap_or(0),
            (2, Value::Varint(value)) => nanos = u32::try_from(value).unwrap_or(0).min(999_999_999),
            _ => {}
        }
    }
    Some(Duration::new(seconds, nanos))
}

fn messages(message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    Fields::checked(message).filter_map(move |field| match field {
        Field {
            number: found,
            value: Value::Bytes(bytes),
            ..
        } if found == number => Some(bytes),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::status::{Code, PartialSuccess, Status};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_we_write_is_what_we_read(
            rejected in 0..1_u64 << 62,
            message in "[a-z%\u{e9} ]{0,40}",
            number in 0..17_u64,
            delay in proptest::option::of((0..1_u64 << 38, 0..1_000_000_000_u32)),
        ) {
            let mut bytes = Vec::new();
            PartialSuccess { rejected, message: &message }.push_protobuf(&mut bytes);
            prop_assert_eq!(read_response(&bytes), Partial { rejected, message: message.clone() });

            let retry_delay = delay.map(|(seconds, nanos)| Duration::new(seconds, nanos));
            let code = Code::from_number(number).expect("a code");
            let mut bytes = Vec::new();
            Status { code, message: &message, retry_delay }.push_protobuf(&mut bytes);
            prop_assert_eq!(read_status(&bytes), Explanation { message, retry_delay });
        }

        #[test]
        fn hostile_replies_say_nothing(bytes: Vec<u8>) {
            let (response, status) = (read_response(&bytes), read_status(&bytes));
            prop_assert!(response.message.len() <= 3 * TEXT_BYTES_MAX && status.message.len() <= 3 * TEXT_BYTES_MAX);
        }
    }

    #[test]
    fn a_negative_count_or_delay_is_none() {
        // partial_success { rejected_spans: -1 }
        let mut inner = vec![8];
        inner.extend([0xff; 9]);
        inner.push(1);
        let mut bytes = vec![10, inner.len() as u8];
        bytes.extend(inner);
        assert_eq!(read_response(&bytes).rejected, 0);
    }
}
