//! JSON by hand: a listing of 90,000 entries is written in the time that reading it takes, into one growing buffer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::bytes::escape;
use crate::fs::Time;

/// An object or array that is being written to the end of a buffer.
pub struct Json<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Json<'o> {
    /// Opens an object at the end of `out`. It is closed by [`Json::end`].
    pub fn object(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// Closes the object.
    pub fn end(self) {
        self.out.push(b'}');
    }

    /// Begins the next member; its value is to be written to what is returned. `name` needs no escaping.
    pub fn key(&mut self, name: &str) -> &mut Vec<u8> {
        let out = self.raw_key();
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        out
    }

    /// Begins the next member: its key, a colon and its value are to be written to what is returned.
    pub fn raw_key(&mut self) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out
    }

    /// A string.
    pub fn text(&mut self, name: &str, value: &str) {
        string(self.key(name), value);
    }

    /// A string that needs no escaping.
    pub fn word(&mut self, name: &str, value: &str) {
        let out = self.key(name);
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: u64) {
        decimal(self.key(name), value);
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.key(name).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// `null`.
    pub fn null(&mut self, name: &str) {
        self.key(name).extend_from_slice(b"null");
    }

    /// A guest's name: as it is if it is UTF-8, else escaped, and whole as base64 under `name_bytes`.
    pub fn path(&mut self, name: &str, value: &[u8]) {
        let text = escape(value);
        string(self.key(name), &text);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            let out = self.key(&format!("{name}_bytes"));
            base64(out, value);
        }
    }

    /// A time, RFC 3339 in UTC with nine digits; `null` where there is none.
    pub fn time(&mut self, name: &str, value: Option<Time>) {
        let out = self.key(name);
        match value {
            None => out.extend_from_slice(b"null"),
            Some(value) => {
                out.push(b'"');
                time(out, value);
                out.push(b'"');
            }
        }
    }

    /// The list `items`, each written by `write`.
    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Vec<u8>, T),
    ) {
        let out = self.key(name);
        out.push(b'[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write(out, item);
        }
        out.push(b']');
    }
}

/// `value` in quotes. What is not harmless on a terminal (controls of both sets, marks that turn the direction of writing) is
/// written as `\uXXXX`.
pub fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && *byte != b'"' && *byte != b'\\';
    let mut rest = value;
    loop {
        let end = rest.as_bytes().iter().position(|byte| !plain(byte)).unwrap_or(rest.len());
        let (now, later) = rest.split_at(end);
        out.extend_from_slice(now.as_bytes());
        let mut chars = later.chars();
        let Some(char) = chars.next() else { break };
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\t' => out.extend_from_slice(b"\\t"),
            _ if harmful(char) => out.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes()),
            _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = chars.as_str();
    }
    out.push(b'"');
}

fn harmful(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `value` as base64, in quotes.
pub fn base64(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(value).as_bytes());
    out.push(b'"');
}

/// `value` in decimal.
pub fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// `value` as RFC 3339 in UTC with nine digits of the second; `@seconds.nanoseconds` for a year before 0 or past 9999, which
/// that form cannot hold.
pub fn time(out: &mut Vec<u8>, value: Time) {
    // The first second of the year 0 and of the year 10000.
    if !(-62_167_219_200..253_402_300_800).contains(&value.seconds) {
        out.push(b'@');
        if value.seconds < 0 {
            out.push(b'-');
        }
        decimal(out, value.seconds.unsigned_abs());
        out.push(b'.');
        padded(out, value.nanoseconds, 9);
        return;
    }
    let (days, second) = (value.seconds.div_euclid(86400), value.seconds.rem_euclid(86400));
    let (year, month, day) = civil(days);
    padded(out, year, 4);
    for (mark, part) in [(b'-', month), (b'-', day)] {
        out.push(mark);
        padded(out, part, 2);
    }
    let second = u32::try_from(second).unwrap_or(0);
    for (mark, part) in [(b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)] {
        out.push(mark);
        padded(out, part, 2);
    }
    out.push(b'.');
    padded(out, value.nanoseconds, 9);
    out.push(b'Z');
}

/// `value` with zeros before it, `width` digits (at most 9) of it.
fn padded(out: &mut Vec<u8>, mut value: u32, width: usize) {
    let mut digits = [b'0'; 9];
    for digit in digits[..width].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[..width]);
}

/// The Gregorian date of a day counted from 1970-01-01, for years from 0 to 9999. Years are counted from March, so that the leap
/// day is the last of its year, in eras of 400 years (146,097 days).
fn civil(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |value: i64| u32::try_from(value).unwrap_or(0);
    (small(year), small(month), small(day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seconds: i64, nanoseconds: u32) -> String {
        let mut out = Vec::new();
        time(&mut out, Time { seconds, nanoseconds });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_agree_with_another_calendar() {
        // Every 37 days and some seconds from the year 0 to 9999, against jiff.
        let mut at = -62_167_219_200_i64;
        while at < 253_402_207_200 {
            let theirs = jiff::Timestamp::new(at, 0).unwrap().strftime("%Y-%m-%dT%H:%M:%S").to_string();
            assert_eq!(shown(at, 7), format!("{theirs}.000000007Z"));
            at += 37 * 86400 + 12345;
        }
    }

    #[test]
    fn years_that_rfc3339_cannot_hold_are_counted_in_seconds() {
        assert_eq!(shown(253_402_300_799, 999_999_999), "9999-12-31T23:59:59.999999999Z");
        assert_eq!(shown(253_402_300_800, 5), "@253402300800.000000005");
        assert_eq!(shown(i64::MIN, 0), "@-9223372036854775808.000000000");
    }

    #[test]
    fn strings_come_back_from_another_parser() {
        for text in ["", "plain", "q\"b\\s/ü漢\u{1f600}", "\0\x1b[31m\n\t\r\x7f\u{9b}\u{202e}abc\u{2066}"] {
            let mut out = Vec::new();
            string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            assert!(!String::from_utf8(out).unwrap().chars().any(harmful));
        }
    }
}
