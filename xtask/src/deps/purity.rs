//! The pure crates' source, searched for what cargo cannot see: the standard library's impure parts.

use std::path::Path;

use anyhow::Result;

use crate::rooms::{IMPURE_NAMES, IMPURE_PATHS, IMPURE_STD, Kind, ROOMS};
use crate::source::{Source, Token};
use crate::{sh, tree};

/// Every impure name in the product source of the pure crates, as `file:line: what`.
pub fn scan_all() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for room in ROOMS.iter().filter(|room| room.kind == Kind::Pure) {
        for file in tree::read_room(&sh::root().join(room.dir))?.into_iter().filter(|file| !file.all_test) {
            found.extend(scan(&file.path, &file.source));
        }
    }
    Ok(found)
}

/// The impure names of one file.
fn scan(path: &Path, source: &Source) -> Vec<String> {
    let tokens = source.product_tokens();
    let mut in_std_use = false;
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        match text(&tokens, at) {
            "use" => in_std_use = text(&tokens, at + 1) == "std",
            ";" => in_std_use = false,
            _ => {}
        }
        if let Some(what) = impure(&tokens, at, in_std_use) {
            found.push(format!("{}:{}: {what} in a pure crate", path.display(), tokens[at].line + 1));
        }
    }
    found
}

/// What is impure about token `at`, if anything.
fn impure(tokens: &[&Token], at: usize, in_std_use: bool) -> Option<String> {
    let word = text(tokens, at);
    let before = |n: usize| at.checked_sub(n).map_or("", |at| text(tokens, at));
    let after_std = before(1) == "::" && before(2) == "std";
    if IMPURE_STD.contains(&word) && (after_std || in_std_use) {
        return Some(format!("std::{word}"));
    }
    if IMPURE_NAMES.contains(&word) {
        return Some(word.to_owned());
    }
    let pair = IMPURE_PATHS
        .iter()
        .find(|(module, name)| *name == word && before(1) == "::" && before(2) == *module)?;
    Some(format!("{}::{}", pair.0, pair.1))
}

fn text<'a>(tokens: &[&'a Token], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        scan(Path::new("a.rs"), &Source::parse(text))
    }

    #[test]
    fn impure_names_are_found_with_their_lines() {
        assert_eq!(found("\nuse std::{collections::BTreeMap, fs};"), ["a.rs:2: std::fs in a pure crate"]);
        assert_eq!(
            found("fn f() { let t = std::time::Instant::now(); }"),
            ["a.rs:1: Instant::now in a pure crate"]
        );
        assert_eq!(found("use std::time::SystemTime;"), ["a.rs:1: SystemTime in a pure crate"]);
        assert_eq!(found("fn f() { rand::rng() }"), ["a.rs:1: rand::rng in a pure crate"]);
        assert_eq!(found("fn f() { std::thread::sleep(x) }"), ["a.rs:1: std::thread in a pure crate"]);
    }

    #[test]
    fn tests_comments_and_innocent_names_pass() {
        let innocent = "use std::net::IpAddr;\nuse crate::env;\n// std::fs, SystemTime\nfn f(now: Instant) -> &'static str { \"SystemTime\" }";
        assert!(found(innocent).is_empty());
        assert!(found("#[cfg(test)]\nmod tests { use std::fs; fn f() { Instant::now(); } }").is_empty());
    }
}
