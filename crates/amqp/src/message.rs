//! Messages and what they stand for: properties of jobs, results and dead letters.

use brigade::broker::{BrokerError, DeadLetter, JobId};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::error;

/// How many times the job was delivered before this message was published. Messages that are published
/// again have it, also if it is 0.
const DELIVERIES: &str = "x-brigade-deliveries";
/// How many of them were lost.
const LOST: &str = "x-brigade-lost";
/// Why the last delivery failed, or why the job is dead.
const REASON: &str = "x-brigade-reason";
/// How many times the server has returned this message to its queue.
const RETURNS: &str = "x-delivery-count";
/// Why the server dead-lettered the message.
const DEATH: &str = "x-first-death-reason";
/// What the server adds, and would take for its own if it were published again.
const OF_THE_SERVER: [&str; 4] = [RETURNS, "x-death", "x-acquired-count", "CC"];

/// Headers have to fit into one frame, whose least size is 4,096 bytes; the id may need 255.
pub(crate) const LONGEST_REASON: usize = 2048;

/// The priority that a quorum queue takes for high: 5 or more.
const HIGH: u8 = 5;

/// A message to be published.
pub(crate) struct Outgoing {
    pub(crate) queue: ShortString,
    pub(crate) payload: Vec<u8>,
    pub(crate) properties: BasicProperties,
}

/// Properties of a message of this crate: durable, and with the id of its job.
pub(crate) fn properties(id: &JobId) -> Result<BasicProperties, BrokerError> {
    let id = ShortString::try_new(id.as_str()).map_err(|_| {
        error::permanent(format!(
            "ids of jobs have at most 255 bytes: {} of `{id}`",
            id.as_str().len()
        ))
    })?;
    Ok(durable(BasicProperties::default().with_message_id(id)))
}

/// Survives a restart of the server.
fn durable(properties: BasicProperties) -> BasicProperties {
    properties.with_delivery_mode(2)
}

/// Adds the priority of a job.
pub(crate) fn prioritized(properties: BasicProperties, priority: u8) -> BasicProperties {
    match priority {
        0 => properties,
        priority => properties.with_priority(priority.max(HIGH)),
    }
}

/// Adds the time after which the message leaves its delay queue.
pub(crate) fn delayed(properties: BasicProperties, milliseconds: u64) -> BasicProperties {
    properties.with_expiration(milliseconds.to_string().into())
}

/// The properties of a delivery, to be published again: with its application's headers and without
/// those of the server.
pub(crate) fn again(
    delivered: &BasicProperties,
    deliveries: u32,
    reason: Option<&str>,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in delivered.headers().iter().flat_map(|table| table.inner()) {
        let name_of = name.as_str();
        if !OF_THE_SERVER.contains(&name_of)
            && !name_of.starts_with("x-first-death-")
            && !name_of.starts_with("x-last-death-")
            && name_of != DELIVERIES
            && name_of != LOST
            && name_of != REASON
        {
            headers.insert(name.clone(), value.clone());
        }
    }
    let lost = (deliveries > 0).then(|| (LOST, lost_count(delivered)));
    for (name, count) in lost.into_iter().chain([(DELIVERIES, deliveries)]) {
        headers.insert(name.into(), AMQPValue::LongLongInt(i64::from(count)));
    }
    if let Some(reason) = reason {
        headers.insert(
            REASON.into(),
            AMQPValue::LongString(shortened(reason).into()),
        );
    }
    let mut properties = durable(BasicProperties::default()).with_headers(headers);
    // Without the expiration, which was for the queue that the message comes from, and without the
    // user, who has to be that of the connection.
    macro_rules! keep {
        ($($property:ident by $setter:ident),*) => {
            $(if let Some(value) = delivered.$property() {
                properties = properties.$setter(value.clone());
            })*
        };
    }
    keep!(
        message_id by with_message_id,
        priority by with_priority,
        content_type by with_content_type,
        content_encoding by with_content_encoding,
        correlation_id by with_correlation_id,
        reply_to by with_reply_to,
        timestamp by with_timestamp,
        kind by with_type,
        app_id by with_app_id
    );
    properties
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The id of the job: empty if its producer gave it none.
pub(crate) fn job_id(properties: &BasicProperties) -> JobId {
    JobId::new(
        properties
            .message_id()
            .as_ref()
            .map_or("", ShortString::as_str),
    )
}

/// How many times the job was delivered, this time included.
pub(crate) fn delivery_count(properties: &BasicProperties) -> u32 {
    count(properties, DELIVERIES)
        .saturating_add(count(properties, RETURNS))
        .saturating_add(1)
}

/// Whether the message was published again, after the job had been delivered.
pub(crate) fn is_repeated(properties: &BasicProperties) -> bool {
    header(properties, DELIVERIES).is_some()
}

/// How many deliveries of the job were lost: all that the server has returned, since what is
/// released or retried later is published again.
pub(crate) fn lost_count(properties: &BasicProperties) -> u32 {
    count(properties, LOST).saturating_add(count(properties, RETURNS))
}

fn count(properties: &BasicProperties, name: &str) -> u32 {
    header(properties, name).and_then(number).unwrap_or(0)
}

pub(crate) fn dead_letter(properties: &BasicProperties, payload: Vec<u8>) -> DeadLetter {
    let reason = match (header(properties, REASON), header(properties, DEATH)) {
        // The last failure is no reason of the server's.
        (reason, Some(death)) => {
            let mut text = format!("dead-lettered by the server: {}", display(death));
            if let Some(reason) = reason {
                text = format!("{text}; the last failure was: {}", display(reason));
            }
            text
        }
        (Some(reason), None) => display(reason),
        (None, None) => String::new(),
    };
    DeadLetter::new(job_id(properties), payload, reason)
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn number(value: &AMQPValue) -> Option<u32> {
    let number = match *value {
        AMQPValue::ShortShortInt(n) => i64::from(n),
        AMQPValue::ShortShortUInt(n) => i64::from(n),
        AMQPValue::ShortInt(n) => i64::from(n),
        AMQPValue::ShortUInt(n) => i64::from(n),
        AMQPValue::LongInt(n) => i64::from(n),
        AMQPValue::LongUInt(n) => i64::from(n),
        AMQPValue::LongLongInt(n) => n,
        _ => return None,
    };
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

fn display(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::ShortString(text) => text.to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        properties(&JobId::new("job")).unwrap().with_headers(table)
    }

    #[test]
    fn the_first_delivery_has_no_header_and_counts_one() {
        assert_eq!(delivery_count(&delivered(&[])), 1);
        assert_eq!(delivery_count(&BasicProperties::default()), 1);
    }

    #[test]
    fn the_count_goes_on_after_a_message_was_published_again() {
        let second = delivered(&[(RETURNS, AMQPValue::LongLongInt(1))]);
        assert_eq!(delivery_count(&second), 2);
        let third = again(&second, delivery_count(&second), None);
        assert_eq!((delivery_count(&third), lost_count(&third)), (3, 1));
        let fourth = again(&third, delivery_count(&third), Some("no"));
        assert_eq!((delivery_count(&fourth), lost_count(&fourth)), (4, 1));
        let first = again(&fourth, 0, None);
        assert_eq!((delivery_count(&first), lost_count(&first)), (1, 0));
        let repeated = [&second, &third, &fourth, &first].map(is_repeated);
        assert_eq!(repeated, [false, true, true, true]);
    }

    #[test]
    fn counts_that_are_none_are_ignored() {
        for value in [AMQPValue::LongLongInt(-5), AMQPValue::Boolean(true)] {
            assert_eq!(delivery_count(&delivered(&[(DELIVERIES, value)])), 1);
        }
        let most = delivered(&[(DELIVERIES, AMQPValue::LongLongInt(i64::MAX))]);
        assert_eq!(delivery_count(&most), u32::MAX);
    }

    #[test]
    fn headers_of_the_application_stay_and_those_of_the_server_go() {
        let before = delivered(&[
            ("trace", AMQPValue::Boolean(true)),
            (DEATH, AMQPValue::LongString("expired".into())),
            ("x-death", AMQPValue::Boolean(true)),
            (RETURNS, AMQPValue::LongInt(3)),
        ])
        .with_priority(5);
        let after = again(&before, 0, None);
        let expected = delivered(&[
            ("trace", AMQPValue::Boolean(true)),
            (DELIVERIES, AMQPValue::LongLongInt(0)),
        ])
        .with_priority(5);
        assert_eq!(after, expected);
    }

    #[test]
    fn reasons_are_cut_at_a_character() {
        let reason = "é".repeat(LONGEST_REASON);
        let dead = again(&delivered(&[]), 1, Some(&format!("x{reason}")));
        let kept = dead_letter(&dead, b"payload".to_vec());
        assert_eq!(
            kept,
            DeadLetter::new(
                JobId::new("job"),
                b"payload".to_vec(),
                format!("x{}", "é".repeat((LONGEST_REASON - 1) / 2)),
            )
        );
    }

    #[test]
    fn ids_longer_than_a_short_string_are_refused() {
        assert!(properties(&JobId::new("i".repeat(255))).is_ok());
        let error = properties(&JobId::new("i".repeat(256))).unwrap_err();
        assert!(error.is_permanent());
    }

    #[test]
    fn priorities_are_normal_or_high() {
        let of = |priority| *prioritized(BasicProperties::default(), priority).priority();
        assert_eq!(
            [of(0), of(1), of(5), of(200)],
            [None, Some(5), Some(5), Some(200)]
        );
    }
}
