//! Durations as people write them: `"120s"`, `"500ms"`, `"2m"`, `"2h"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// The units, the longest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Writes whole milliseconds in the longest unit that needs no fraction.
pub(crate) fn show(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, size) =
        UNITS.into_iter().find(|(_, size)| millis > 0 && millis % size == 0).unwrap_or(("s", 1_000));
    format!("{}{unit}", millis / size)
}

/// Reads a whole number and its unit; the error says what to write.
pub(crate) fn read(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration: write a whole number and ms, s, m or h, as in 120s");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let (_, size) = UNITS.into_iter().find(|(unit, _)| *unit == &text[digits..]).ok_or_else(wrong)?;
    number.checked_mul(size).map(Duration::from_millis).ok_or_else(wrong)
}

/// For `#[serde(with = "duration")]`.
pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show(*duration))
}

/// For `#[serde(with = "duration")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    read(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// For `#[serde(deserialize_with = "duration::deserialize_some")]` of what may be left out.
pub(crate) fn deserialize_some<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in
            [("120s", 120_000), ("500ms", 500), ("2m", 120_000), ("2h", 7_200_000), ("0s", 0)]
        {
            assert_eq!(read(text), Ok(Duration::from_millis(millis)));
        }
        assert_eq!(show(Duration::from_secs(124 * 60)), "124m");
        assert_eq!(show(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(show(Duration::ZERO), "0s");
        for text in ["120", "s", "-1s", "1.5s", "1 s", "5 min", "99999999999999999999s", "9999999999999999h"]
        {
            assert!(read(text).unwrap_err().contains("as in 120s"), "{text}");
        }
    }
}
