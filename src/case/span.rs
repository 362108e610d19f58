//! Lengths of time as people write them: `30s`, `10m`, `2h`, `7d`.

use std::time::Duration;

use crate::error::{Error, Result};

/// A whole number and a unit: `s` seconds, `m` minutes, `h` hours, `d` days of 24 hours. Zero is not a length of time.
pub fn parse(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::usage(format!("`{text}` is not a length of time"))
            .hint("a whole number and s, m, h or d: 30s, 10m, 2h, 7d")
    };
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86400,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(seconds) if seconds > 0 && i64::try_from(seconds).is_ok() => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

/// The shortest form [`parse`] reads back, in whole seconds.
pub fn show(span: Duration) -> String {
    let seconds = span.as_secs();
    for (unit, name) in [(86400, 'd'), (3600, 'h'), (60, 'm')] {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

/// Serde's way to a [`Duration`] written as above.
pub(super) mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::time::Duration;

    pub(in crate::case) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| super::parse(&text).map_err(|e| de::Error::custom(e.what()))).transpose()
    }

    #[allow(clippy::ref_option)]
    pub(in crate::case) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => to.serialize_some(&super::show(*span)),
            None => to.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back_and_nonsense_does_not_pass() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200), ("7d", 604_800), ("90s", 90)] {
            let span = parse(text).unwrap();
            assert_eq!(span.as_secs(), seconds);
            assert_eq!(parse(&show(span)).unwrap(), span);
        }
        for text in ["", "s", "0s", "30", "-1s", "+1s", "1.5h", "9999999999999999999d", "3 m", "1é"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
