//! Quantities with their units, as scenario files write them: `"5ms"`, `"45.5mbit"`, `"0.1%"`, `"64kB"`.

use std::time::Duration;

/// Reads a length of time: `ns`, `us`, `ms`, `s`, `min`. Errors say what forms there are.
pub fn duration(text: &str) -> Result<Duration, String> {
    let nanos = scaled(
        text,
        "a time",
        "\"5ms\"",
        &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("min", 60e9)],
    )?;
    if nanos > 86_400e9 {
        return Err(format!("{text:?} is longer than a day"));
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

/// Reads a rate in bits per second: `bit`, `kbit`, `mbit`, `gbit`, always powers of ten.
pub fn rate(text: &str) -> Result<u64, String> {
    let bits =
        scaled(text, "a rate", "\"45.5mbit\"", &[("bit", 1.0), ("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)])?;
    if !(8e3..=400e9).contains(&bits) {
        return Err(format!("{text:?} is no usable rate: it must lie between 8kbit and 400gbit"));
    }
    Ok(bits.round() as u64)
}

/// Reads a share between 0 and 1, written in per cent.
pub fn share(text: &str) -> Result<f64, String> {
    let percent = scaled(text, "a share", "\"0.5%\"", &[("%", 1.0)])?;
    if percent > 100.0 {
        return Err(format!("{text:?} is more than all of it"));
    }
    Ok(percent / 100.0)
}

/// Reads a number of bytes: `B`, `kB`, `MB`, `GB`, powers of ten.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bytes = scaled(text, "a size", "\"64kB\"", &[("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)])?;
    if bytes > 1e10 {
        return Err(format!("{text:?} is more than 10GB"));
    }
    Ok(bytes.round() as u64)
}

fn scaled(text: &str, what: &str, example: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim_start());
    let forms = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not {what}: write it as {example}"))?;
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, scale)) => Ok(number * scale),
        None if unit.is_empty() => {
            Err(format!("{text:?} has no unit: {what} is written as {example} ({})", forms()))
        }
        None => Err(format!("`{unit}` is no unit of {what}: write {}, as in {example}", forms())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(rate("45.5mbit"), Ok(45_500_000));
        assert_eq!(share("0.5%"), Ok(0.005));
        assert_eq!(bytes("64kB"), Ok(64_000));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(
            duration("5").unwrap_err(),
            "\"5\" has no unit: a time is written as \"5ms\" (ns, us, ms, s, min)"
        );
        assert!(duration("5mbit").unwrap_err().starts_with("`mbit` is no unit of a time"));
        assert!(duration("-5ms").is_err() && duration("").is_err() && duration("1.2.3s").is_err());
        assert!(duration("999999999min").unwrap_err().contains("longer than a day"));
        assert!(rate("0mbit").is_err() && share("101%").is_err());
    }
}
