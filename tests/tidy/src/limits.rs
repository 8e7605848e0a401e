//! Every limit has one name in one file: `wire/src/limits.rs`. A const of the same name elsewhere is a second truth.

use std::collections::BTreeMap;

use crate::Finding;
use crate::mask::{line_of, places};
use crate::tree::RustFile;

pub const HOME: &str = "wire/src/limits.rs";

/// Consts of the limits' file that are defined again, there or elsewhere. `files` are those that are not tests.
pub fn defined_twice<'a>(files: impl Iterator<Item = &'a RustFile>) -> Vec<Finding> {
    let mut defined: BTreeMap<String, Vec<(&str, usize)>> = BTreeMap::new();
    for file in files {
        for (name, line) in consts(&file.masked.code) {
            defined.entry(name).or_default().push((&file.path, line));
        }
    }
    let is_limit = |places: &[(&str, usize)]| places.iter().any(|(path, _)| *path == HOME);
    let mut found = Vec::new();
    for (name, places) in defined
        .iter()
        .filter(|(_, places)| places.len() > 1 && is_limit(places))
    {
        let home = places.iter().position(|(path, _)| *path == HOME);
        for (_, (path, line)) in places.iter().enumerate().filter(|(i, _)| Some(*i) != home) {
            found.push(Finding::new(
                path,
                *line,
                format!("{name} is a limit of {HOME}: use that one, or give this another name"),
            ));
        }
    }
    found
}

/// (name, line) of every `const NAME:` that is not inside a function's or a type's block deeper than one brace.
fn consts(code: &str) -> Vec<(String, usize)> {
    places(code, "const")
        .into_iter()
        .filter_map(|at| {
            let rest = code[at + "const".len()..].trim_start();
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let is_const =
                rest[name.len()..].trim_start().starts_with(':') && name.chars().any(|c| c.is_ascii_uppercase());
            is_const.then(|| (name, line_of(code, at)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Masked;

    fn file(path: &str, text: &str) -> RustFile {
        RustFile {
            path: path.into(),
            text: text.into(),
            masked: Masked::new(text, false),
        }
    }

    #[test]
    fn a_limit_defined_again_is_found_and_a_namesake_of_no_limit_is_not() {
        let files = [
            file(
                "desk/src/a.rs",
                "\nconst BODY_BYTES_MAX: usize = 7;\nconst OTHER: u8 = 1;",
            ),
            file(
                HOME,
                "pub const BODY_BYTES_MAX: usize = 9;\npub const PAGE_MAX: u32 = 1;",
            ),
            file(
                "log/src/b.rs",
                "const OTHER: u8 = 2; const fn page_max() {} use wire::limits::PAGE_MAX;",
            ),
        ];
        let found = defined_twice(files.iter());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].file.as_str(), found[0].line), ("desk/src/a.rs", 2));
    }
}
