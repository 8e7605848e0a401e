//! Is this a message's body? Decided by one scan over its bytes; the bytes themselves are never rewritten.

use serde_json::value::RawValue;
use wire::{ErrorCode, limits};

/// The kinds of body; each names its one member.
const KINDS: [&str; 5] = ["text", "image", "file", "card", "custom"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body has more than {} bytes", limits::BODY_BYTES_MAX)]
    TooLarge,
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("the body is nested deeper than {}", limits::BODY_DEPTH_MAX)]
    TooDeep,
    #[error("the body needs exactly one of text, image, file, card, custom")]
    Kind,
    #[error("text must be a string, the other kinds objects")]
    Type,
}

impl BodyError {
    pub fn code(self) -> ErrorCode {
        match self {
            BodyError::TooLarge => ErrorCode::TooLarge,
            _ => ErrorCode::InvalidBody,
        }
    }
}

/// A message's body: an object with exactly one known member, whatever else it holds.
pub fn check_message(body: &RawValue) -> Result<(), BodyError> {
    let mut kinds = 0u32;
    let mut typed = true;
    scan(body.get(), |key, value| {
        if let Some(kind) = kind_of(key) {
            kinds += 1;
            typed &= value == if kind == "text" { b'"' } else { b'{' };
        }
    })?;
    match (kinds, typed) {
        (1, true) => Ok(()),
        (1, false) => Err(BodyError::Type),
        _ => Err(BodyError::Kind),
    }
}

/// Any object within the limits: a note, a deed.
pub fn check_object(value: &RawValue) -> Result<(), BodyError> {
    scan(value.get(), |_, _| {})
}

fn kind_of(key: &str) -> Option<&'static str> {
    if key.contains('\\') {
        let plain: String = serde_json::from_str(&format!("\"{key}\"")).ok()?;
        return KINDS.into_iter().find(|k| *k == plain);
    }
    KINDS.into_iter().find(|k| *k == key)
}

/// Walks over well-formed JSON (a `RawValue` is) and shows each top-level member: its key as written, its value's first byte.
fn scan(json: &str, mut member: impl FnMut(&str, u8)) -> Result<(), BodyError> {
    let bytes = json.as_bytes();
    if bytes.len() > limits::BODY_BYTES_MAX {
        return Err(BodyError::TooLarge);
    }
    if bytes.first() != Some(&b'{') {
        return Err(BodyError::NotAnObject);
    }
    let (mut depth, mut at) = (0usize, 0usize);
    let mut key: Option<&str> = None;
    let mut key_next = false;
    while let Some(&byte) = bytes.get(at) {
        if depth == 1
            && !key_next
            && !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b':')
            && let Some(key) = key.take()
        {
            member(key, byte);
        }
        match byte {
            b'"' => {
                let end = string_end(bytes, at);
                if depth == 1 && key_next {
                    key = json.get(at + 1..end);
                    key_next = false;
                }
                at = end;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > limits::BODY_DEPTH_MAX {
                    return Err(BodyError::TooDeep);
                }
                key_next = depth == 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => key_next = true,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The index of the closing quote of the string that opens at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut i = at + 1;
    while let Some(&byte) = bytes.get(i) {
        match byte {
            b'"' => return i,
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(json: &str) -> Result<(), BodyError> {
        check_message(serde_json::from_str::<&RawValue>(json).expect("test input is JSON"))
    }

    #[test]
    fn each_kind_is_accepted_and_unknown_members_too() {
        for good in [
            r#"{"text":"hello"}"#,
            r#"{ "text" : "a\"b{[" , "n":1e999, "x":[1,{"text":2}] }"#,
            r#"{"image":{"file":"f"}}"#,
            r#"{"card":{"title":"t","text":"no matter"}}"#,
            r#"{"custom":{}}"#,
            r#"{"te\u0078t":"escaped key"}"#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_no_body_is_refused() {
        for (bad, why) in [
            ("{}", BodyError::Kind),
            ("[]", BodyError::NotAnObject),
            ("\"text\"", BodyError::NotAnObject),
            ("null", BodyError::NotAnObject),
            (r#"{"nope":1}"#, BodyError::Kind),
            (r#"{"x":{"text":"inner"}}"#, BodyError::Kind),
            (r#"{"x":"text"}"#, BodyError::Kind),
            (r#"{"text":"a","text":"b"}"#, BodyError::Kind),
            (r#"{"text":"a","te\u0078t":"b"}"#, BodyError::Kind),
            (r#"{"text":"a","image":{}}"#, BodyError::Kind),
            (r#"{"text":1}"#, BodyError::Type),
            (r#"{"image":"x"}"#, BodyError::Type),
        ] {
            assert_eq!(check(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn size_and_depth_have_limits_to_the_byte() {
        let fits = format!("{{\"text\":\"{}\"}}", "x".repeat(limits::BODY_BYTES_MAX - 11));
        assert_eq!(fits.len(), limits::BODY_BYTES_MAX);
        assert_eq!(check(&fits), Ok(()));
        assert_eq!(check(&fits.replace("\"}", "x\"}")), Err(BodyError::TooLarge));
        let nested = |n: usize| format!("{{\"custom\":{{\"a\":{}{}}}}}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check(&nested(limits::BODY_DEPTH_MAX - 2)), Ok(()));
        assert_eq!(check(&nested(limits::BODY_DEPTH_MAX - 1)), Err(BodyError::TooDeep));
    }

    proptest! {
        #[test]
        fn any_text_is_a_body(text in ".*", other in ".*") {
            let json = serde_json::json!({ "x": { "text": &other, "y": [&other] }, "text": text }).to_string();
            prop_assert_eq!(check(&json), Ok(()));
        }

        #[test]
        fn the_scan_agrees_with_a_parser(keys in proptest::collection::vec(
            prop_oneof![Just("text"), Just("image"), Just("other"), Just("")], 0..4),
            values in proptest::collection::vec(prop_oneof![Just("\"s\""), Just("{}"), Just("[{\"text\":[]}]"), Just("-1")], 4))
        {
            let members: Vec<String> = keys.iter().zip(&values).map(|(k, v)| format!("\"{k}\": {v}")).collect();
            let known: Vec<(&&str, &&str)> = keys.iter().zip(&values).filter(|(k, _)| KINDS.contains(*k)).collect();
            let expected = match known[..] {
                [(k, v)] if (*k == "text") == v.starts_with('"') && (*k == "text" || v.starts_with('{')) => Ok(()),
                [_] => Err(BodyError::Type),
                _ => Err(BodyError::Kind),
            };
            prop_assert_eq!(check(&format!("{{{}}}", members.join(" ,"))), expected);
        }
    }
}
