//! Text from elsewhere must not control the terminal (CVE-2025-48056): labels, names and messages come from
//! pods, manifests and peers.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Shows a string with everything escaped that would move the cursor, change colours, or reorder what is read.
#[derive(Clone, Copy, Debug)]
pub struct Safe<'a>(pub &'a str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escaped(self.0, is_harmless))
    }
}

/// The same, and lines stay lines.
#[must_use]
pub fn safe_text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || is_harmless(c))
}

/// JSON with the same characters written as `\u009b`: still the same JSON, since they occur in strings only.
#[must_use]
pub fn safe_json(json: &str) -> Cow<'_, str> {
    if json.chars().all(|c| c == '\n' || is_harmless(c)) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if c == '\n' || is_harmless(c) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a string does not fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    Cow::Owned(safe)
}

fn escaped(text: &str, harmless: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&harmless) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmless(c) {
            safe.push(c);
        } else {
            safe.extend(c.escape_unicode());
        }
    }
    Cow::Owned(safe)
}

/// Neither a control character (C0, DEL, C1) nor one that is invisible, separates lines, or changes direction.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_terminals_obey_is_shown_instead() {
        for (text, shown) in [
            ("plain äöü 日本 🔒 ~", "plain äöü 日本 🔒 ~"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("title\u{1b}]0;owned\u{7}", "title\\u{1b}]0;owned\\u{7}"),
            ("csi\u{9b}2J", "csi\\u{9b}2J"),
            ("a\rb\nc\td\u{8}\u{7f}", "a\\u{d}b\\u{a}c\\u{9}d\\u{8}\\u{7f}"),
            ("abc\u{202e}gpj.exe", "abc\\u{202e}gpj.exe"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
        ] {
            assert_eq!(Safe(text).to_string(), shown);
        }
        assert_eq!(safe_text("a\n\u{1b}[2J\n"), "a\n\\u{1b}[2J\n");
        assert_eq!(format!("[{:<8}]", Safe("a\u{1b}")), "[a\\u{1b} ]");
    }

    proptest! {
        #[test]
        fn nothing_dangerous_is_left(text in any::<String>()) {
            prop_assert!(Safe(&text).to_string().chars().all(is_harmless));
            let json = serde_json::to_string(&text).expect("JSON");
            let safe = safe_json(&json);
            prop_assert!(safe.chars().all(is_harmless));
            prop_assert_eq!(serde_json::from_str::<String>(&safe).expect("still JSON"), text);
        }
    }
}
