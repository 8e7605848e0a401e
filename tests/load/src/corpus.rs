//! Reads dialogues from YAML files: `conversations:` is a list of dialogues, a dialogue a list of turns. Every scalar is text as written.

use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser};

use crate::Error;

/// One file: what two people say to each other, one after the other.
#[derive(Debug)]
pub struct Topic {
    pub language: String,
    pub name: String,
    pub dialogues: Vec<Vec<String>>,
}

/// All topics below a directory, by language (the name of a file's directory), in order.
pub fn read(dir: &Path) -> Result<Vec<Topic>, Error> {
    let mut files = Vec::new();
    find(dir, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(Error::Corpus(format!(
            "no .yml file below {}; deploy/corpus-fetch prints the directory to give",
            dir.display()
        )));
    }
    let mut topics = Vec::new();
    for file in files {
        let failed = |why: String| Error::File {
            path: file.display().to_string(),
            why,
        };
        let text = std::fs::read_to_string(&file).map_err(|e| failed(e.to_string()))?;
        match dialogues(&text) {
            Ok(dialogues) => topics.push(Topic {
                language: name_of(file.parent().unwrap_or(dir)),
                name: name_of(&file.with_extension("")),
                dialogues,
            }),
            // Its authors' mistake; the rest is played.
            Err(why) => eprintln!("load: {}: not YAML: {why}; left out", file.display()),
        }
    }
    Ok(topics)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or(String::new(), |n| n.to_string_lossy().into_owned())
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::File {
        path: dir.display().to_string(),
        why: e.to_string(),
    };
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

/// Depths: 1 the file's mapping, 2 the list of dialogues, 3 a dialogue; what is deeper belongs to one turn.
fn dialogues(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut depth = 0;
    let mut key: Option<String> = None;
    let mut inside = false;
    let mut turn: Vec<String> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|e| e.to_string())?;
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                depth += 1;
                if depth == 2 {
                    inside = key.take().as_deref() == Some("conversations");
                }
                if depth == 3 && inside {
                    all.push(Vec::new());
                }
            }
            Event::MappingEnd | Event::SequenceEnd => {
                depth -= 1;
                inside &= depth >= 2;
                // A turn such as `- Q: A`, which its author meant as text.
                if depth == 3 && inside && !turn.is_empty() {
                    let text = std::mem::take(&mut turn).join(": ");
                    all.last_mut().into_iter().for_each(|d| d.push(text.clone()));
                }
            }
            Event::Scalar(value, ..) => match depth {
                1 => key = if key.is_some() { None } else { Some(value.into_owned()) },
                2 if inside => all.push(vec![value.into_owned()]),
                3 if inside => all.last_mut().into_iter().for_each(|d| d.push(value.to_string())),
                _ if inside => turn.push(value.into_owned()),
                _ => {}
            },
            _ => {}
        }
    }
    for dialogue in &mut all {
        dialogue.retain(|turn| !turn.is_empty());
    }
    all.retain(|d| !d.is_empty());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_text_as_written_whatever_they_look_like() {
        let text = "categories:\n- x\nconversations:\n- - שלום\n  - \" with a space \"\n  - 1e5\n  - yes\n- - a: b\n  - |\n    two\n    lines\n- alone\n";
        let read = dialogues(text).unwrap();
        assert_eq!(
            read,
            [
                vec!["שלום", " with a space ", "1e5", "yes"],
                vec!["a: b", "two\nlines\n"],
                vec!["alone"]
            ]
        );
    }

    #[test]
    fn other_lists_are_no_dialogues() {
        assert!(dialogues("categories:\n- - a\n  - b\n").unwrap().is_empty());
    }
}
