//! Serialization of times in a record.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// RFC 3339 text with milliseconds, so that people can read a record.
pub(super) mod time {
    use super::*;

    pub(in crate::store::record) fn serialize<S: Serializer>(
        time: &SystemTime,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_millis(clamp(*time)))
    }

    pub(in crate::store::record) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }

    /// The formatter panics before 1970 and after 9999; a wrong clock must not cause a panic.
    fn clamp(time: SystemTime) -> SystemTime {
        time.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(253_000_000_000))
    }
}

pub(super) mod optional_time {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Timestamp(#[serde(with = "super::time")] SystemTime);

    pub(in crate::store::record) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Timestamp).serialize(to)
    }

    pub(in crate::store::record) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<Timestamp>::deserialize(from)?.map(|text| text.0))
    }
}
