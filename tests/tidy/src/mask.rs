//! What of a Rust file is code: comments, literals and test code are blanked, so that a rule neither trips over a word in a
//! sentence nor over a test. Line breaks stay, so line numbers hold. A scanner, not a parser: enough for the rules here.

/// A Rust file with parts of it blanked.
pub struct Masked {
    /// Comments blanked.
    pub with_literals: String,
    /// Comments and the insides of string and character literals blanked.
    pub code: String,
}

impl Masked {
    /// Blanks comments, literals and, if asked, everything under `#[cfg(test)]` and `#[test]`.
    pub fn new(source: &str, keep_tests: bool) -> Self {
        let (mut with_literals, mut code) = blank_comments_and_literals(source);
        if !keep_tests {
            for (from, to) in test_items(&code) {
                blank(&mut with_literals, from, to);
                blank(&mut code, from, to);
            }
        }
        let text = |bytes| String::from_utf8(bytes).expect("whole characters were blanked, byte by byte");
        Self {
            with_literals: text(with_literals),
            code: text(code),
        }
    }

    /// Every place of `needle` in the code that does not stand inside a longer name, as a line from 1.
    pub fn lines_with(&self, needle: &str) -> Vec<usize> {
        places(&self.code, needle)
            .into_iter()
            .map(|at| line_of(&self.code, at))
            .collect()
    }
}

/// Byte offsets of `needle` where it is not a part of a longer name.
pub fn places(text: &str, needle: &str) -> Vec<usize> {
    let is_name = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = text.as_bytes();
    text.match_indices(needle)
        .map(|(at, _)| at)
        .filter(|at| !(is_name(needle.as_bytes().first()) && *at > 0 && is_name(bytes.get(at - 1))))
        .filter(|at| !(is_name(needle.as_bytes().last()) && is_name(bytes.get(at + needle.len()))))
        .collect()
}

pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count()
}

fn blank(bytes: &mut [u8], from: usize, to: usize) {
    bytes[from..to]
        .iter_mut()
        .filter(|b| **b != b'\n')
        .for_each(|b| *b = b' ');
}

/// (comments blanked, comments and literals blanked).
fn blank_comments_and_literals(source: &str) -> (Vec<u8>, Vec<u8>) {
    let bytes = source.as_bytes();
    let (mut with_literals, mut code) = (bytes.to_vec(), bytes.to_vec());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"//") || rest.starts_with(b"/*") {
            let end = at + comment_len(rest);
            blank(&mut with_literals, at, end);
            blank(&mut code, at, end);
            at = end;
        } else if let Some((open, len)) = literal_len(bytes, at) {
            blank(&mut code, at + open, at + len);
            at += len;
        } else {
            at += 1;
        }
    }
    (with_literals, code)
}

fn comment_len(rest: &[u8]) -> usize {
    if rest.starts_with(b"//") {
        return rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// If a string, byte string, raw string or character literal begins at `at`: (length of its opening, its whole length).
fn literal_len(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let inside_a_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let rest = &bytes[at..];
    if !inside_a_name {
        let prefix = [&b"br"[..], b"cr", b"r"]
            .into_iter()
            .find(|p| rest.starts_with(p))
            .map_or(0, <[u8]>::len);
        let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
        if prefix > 0 && rest.get(prefix + hashes) == Some(&b'"') {
            let open = prefix + hashes + 1;
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let inner = rest[open..].windows(close.len()).position(|w| w == close)?;
            return Some((open, open + inner + close.len()));
        }
    }
    match rest[0] {
        b'"' => Some((1, 1 + escaped_len(&rest[1..], b'"'))),
        // A lifetime has no closing quote right after its first character.
        b'\'' if rest.get(1) == Some(&b'\\') => Some((1, 1 + escaped_len(&rest[1..], b'\''))),
        b'\'' => {
            let first = std::str::from_utf8(&rest[1..rest.len().min(5)]).map_or_else(
                |e| {
                    std::str::from_utf8(&rest[1..1 + e.valid_up_to()])
                        .ok()
                        .and_then(|s| s.chars().next())
                },
                |s| s.chars().next(),
            )?;
            let len = 1 + first.len_utf8();
            (rest.get(len) == Some(&b'\'')).then_some((1, len + 1))
        }
        _ => None,
    }
}

/// Length up to and with the closing quote.
fn escaped_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Ranges of the items that stand under `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[test]` or `#[tokio::test]`.
fn test_items(code: &[u8]) -> Vec<(usize, usize)> {
    let text = std::str::from_utf8(code).expect("blanking keeps UTF-8");
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find("#[").map(|i| at + i) {
        let close = matching(code, open + 1);
        let attribute = &text[open..close];
        at = close;
        if is_test_attribute(attribute) {
            at = item_end(code, close);
            found.push((open, at));
        }
    }
    found
}

fn is_test_attribute(attribute: &str) -> bool {
    let inner = attribute.trim_start_matches("#[").trim_end_matches(']').trim();
    let is_cfg_test = inner.starts_with("cfg(") && !places(inner, "test").is_empty() && !inner.contains("not(test");
    is_cfg_test || inner == "test" || inner.starts_with("tokio::test")
}

/// Index after the bracket that closes the one at `open`.
fn matching(code: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'[' | b'(' | b'{' => depth += 1,
            b']' | b')' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Where the item that begins after an attribute ends: at its `;`, or at the brace that closes its body.
fn item_end(code: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < code.len() {
        match code[at] {
            b';' | b',' => return at + 1,
            b'{' => return matching(code, at),
            b'[' | b'(' => at = matching(code, at),
            _ => at += 1,
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_and_literals_are_not_code() {
        let source = r###"
            // never call needle() here
            /* nor /* needle */ there */
            let a = "needle \" needle"; let b = r#"needle " needle"#; let c = b"needle"; let d = 'n';
            fn f<'needle_life>(x: &'needle_life str) {} let q = '"'; let e = '\''; let r = '爱';
            needle();
        "###;
        assert_eq!(Masked::new(source, false).lines_with("needle"), [6]);
    }

    #[test]
    fn test_code_is_blanked_and_what_follows_is_not() {
        let source = "\
fn a() { needle() }
#[cfg(test)]
mod tests { fn b() { needle(); \"}\"; } }
#[test]
#[ignore]
fn c(x: [u8; 2]) { needle() }
#[cfg(test)]
use needle;
#[cfg(not(test))]
fn d() { needle() }
";
        assert_eq!(Masked::new(source, false).lines_with("needle"), [1, 10]);
        assert_eq!(Masked::new(source, true).lines_with("needle"), [1, 3, 6, 8, 10]);
    }

    #[test]
    fn a_longer_name_is_another_name() {
        assert_eq!(
            places("xtokio::spawn tokio::spawner tokio::spawn", "tokio::spawn"),
            [29]
        );
    }
}
