//! What a plain scalar means.

use serde_json::{Number, Value};

/// Resolves a plain (unquoted) scalar as `kubectl`'s YAML does, `y` and `n` excepted, which stay strings.
///
/// # Errors
/// A number that JSON cannot hold.
pub(super) fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        _ => {}
    }
    if let Some(integer) = integer(text) {
        return Ok(Value::Number(integer));
    }
    float(text)
}

/// Resolves a scalar with a tag of YAML's core schema (`!!str`, `!!int`, …).
///
/// # Errors
/// A tag that is not known, or a text that is not of its type.
pub(super) fn tagged(suffix: &str, text: &str) -> Result<Value, String> {
    let value = match suffix {
        "str" => return Ok(Value::String(text.to_owned())),
        "int" | "float" | "bool" | "null" => plain(text)?,
        other => return Err(format!("the tag !!{other} is not supported")),
    };
    let fits = match suffix {
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        "bool" => value.is_boolean(),
        _ => value.is_null(),
    };
    if fits { Ok(value) } else { Err(format!("{text:?} is not of the type !!{suffix}")) }
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = radix(digits)?;
    if !digits.bytes().all(|byte| char::from(byte).is_digit(radix)) {
        return None;
    }
    if negative {
        i64::from_str_radix(&format!("-{digits}"), radix).ok().map(Number::from)
    } else {
        u64::from_str_radix(digits, radix).ok().map(Number::from)
    }
}

fn radix(digits: &str) -> Option<(u32, &str)> {
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x', _, ..] => (16, &digits[2..]),
        [b'0', b'o', _, ..] => (8, &digits[2..]),
        [b'0', b'b', _, ..] => (2, &digits[2..]),
        [b'0', b'0'..=b'7', ..] => (8, &digits[1..]),
        [b'0'..=b'9', ..] => (10, digits),
        _ => return None,
    };
    Some((radix, digits))
}

fn float(text: &str) -> Result<Value, String> {
    if matches!(text.trim_start_matches(['+', '-']), ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Err(format!("{text} cannot be written in JSON"));
    }
    let looks = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let number = if looks { text.parse().ok().and_then(Number::from_f64) } else { None };
    Ok(number.map_or_else(|| Value::String(text.to_owned()), Value::Number))
}
