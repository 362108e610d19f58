//! Text from anywhere made into text of a page: nothing of it is markup, nothing of it turns the direction of writing.

use std::fmt::{Display, Formatter, Result, Write};

/// Displays its text escaped for HTML and SVG, in content and in quoted attributes.
pub(super) struct Safe<'t>(pub(super) &'t str);

impl Display for Safe<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if hides(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Controls of both sets, marks and overrides of direction, line and paragraph separators, and what has no width.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_text() {
        assert_eq!(
            Safe("<script>a&b</script>\"'\u{202e}\u{7}").to_string(),
            "&lt;script&gt;a&amp;b&lt;/script&gt;&quot;&#39;\\u{202e}\\u{7}"
        );
        assert_eq!(Safe("größe 日本 עברית").to_string(), "größe 日本 עברית");
    }
}
