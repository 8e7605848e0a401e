//! The repository's files: members of the workspace, and every Rust file with what is known about it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::mask::Masked;

/// A Rust file of ours.
pub struct RustFile {
    /// From the repository's root, with '/'.
    pub path: String,
    pub text: String,
    /// Its code without tests.
    pub masked: Masked,
}

/// The repository's root: two above this crate.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// (path of the manifest from the root, its text) of the workspace's members.
pub fn manifests(root: &Path) -> Vec<(String, String)> {
    let workspace = read(&root.join("Cargo.toml"));
    let table: toml::Table = toml::from_str(&workspace).expect("cargo has read this file before us");
    let members = table["workspace"]["members"]
        .as_array()
        .expect("a workspace lists its members");
    members
        .iter()
        .filter_map(|m| m.as_str())
        .map(|member| format!("{member}/Cargo.toml"))
        .map(|path| (path.clone(), read(&root.join(path))))
        .collect()
}

/// Every Rust file outside `target` and hidden folders.
pub fn rust_files(root: &Path) -> Vec<RustFile> {
    let mut paths = Vec::new();
    collect(root, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = read(&path);
            let from_root = path.strip_prefix(root).unwrap_or(&path);
            RustFile {
                path: from_root.to_string_lossy().replace('\\', "/"),
                masked: Masked::new(&text, false),
                text,
            }
        })
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(|k| k.is_dir())
            && !name.starts_with('.')
            && name != "target"
            && name != "node_modules"
        {
            collect(&path, paths);
        } else if name.ends_with(".rs") {
            paths.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// Files that are only compiled for tests: in a `tests` or `benches` folder, or declared under `#[cfg(test)] mod name;`.
pub fn test_files(files: &[RustFile]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files {
        if file
            .path
            .split('/')
            .any(|part| matches!(part, "tests" | "benches" | "examples" | "fuzz"))
        {
            found.insert(file.path.clone());
        }
        for module in test_modules(&file.text, &file.masked) {
            let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
            let stem = name.trim_end_matches(".rs");
            let beside = matches!(stem, "lib" | "main" | "mod");
            // With `#[path]` it stands beside whatever declares it.
            found.insert(format!("{folder}/{module}.rs"));
            let folder = if beside {
                folder.to_owned()
            } else {
                format!("{folder}/{stem}")
            };
            found.insert(format!("{folder}/{module}.rs"));
            let below = format!("{folder}/{module}/");
            found.extend(
                files
                    .iter()
                    .filter(|f| f.path.starts_with(&below))
                    .map(|f| f.path.clone()),
            );
        }
    }
    found
}

/// Names declared as `mod name;` (or by `#[path = "name.rs"]`) in what the mask took out.
fn test_modules(text: &str, masked: &Masked) -> Vec<String> {
    let all = Masked::new(text, true);
    let kept: BTreeSet<String> = modules(&masked.code).into_iter().collect();
    let paths = |masked: &Masked| -> BTreeSet<String> {
        let marked = masked
            .with_literals
            .lines()
            .filter_map(|line| line.trim().strip_prefix("#[path = \"")?.strip_suffix(".rs\"]"));
        marked.map(str::to_owned).collect()
    };
    let kept_paths = paths(masked);
    let by_path = paths(&all).into_iter().filter(|p| !kept_paths.contains(p));
    modules(&all.code)
        .into_iter()
        .filter(|m| !kept.contains(m))
        .chain(by_path)
        .collect()
}

fn modules(code: &str) -> Vec<String> {
    code.lines()
        .filter_map(|line| {
            line.trim()
                .trim_start_matches("pub ")
                .strip_prefix("mod ")?
                .strip_suffix(';')
        })
        .map(|name| name.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> RustFile {
        RustFile {
            path: path.into(),
            text: text.into(),
            masked: Masked::new(text, false),
        }
    }

    #[test]
    fn a_file_declared_under_cfg_test_is_a_test_file_and_its_neighbour_is_not() {
        let files = [
            file("a/src/lib.rs", "mod real;\n#[cfg(test)]\nmod tests;\n"),
            file("a/src/fold.rs", "#[cfg(test)]\nmod cases;\n"),
            file(
                "a/src/core.rs",
                "#[cfg(test)]\n#[path = \"core_tests.rs\"]\nmod tests;\n",
            ),
            file("a/src/core_tests.rs", ""),
            file("a/src/real.rs", ""),
            file("a/src/tests.rs", ""),
            file("a/src/fold/cases.rs", ""),
            file("a/tests/suite.rs", ""),
        ];
        let found = test_files(&files);
        assert!(
            found.contains("a/src/tests.rs") && found.contains("a/src/fold/cases.rs"),
            "{found:?}"
        );
        assert!(found.contains("a/tests/suite.rs") && found.contains("a/src/core_tests.rs"));
        assert!(!found.contains("a/src/real.rs") && !found.contains("a/src/lib.rs"));
    }

    #[test]
    fn this_crate_finds_itself() {
        assert!(rust_files(&root()).iter().any(|f| f.path == "tests/tidy/src/tree.rs"));
        assert!(
            manifests(&root())
                .iter()
                .any(|(path, _)| path == "tests/tidy/Cargo.toml")
        );
    }
}
