//! Enough of Rust's lexical grammar to measure and to search source text: comments and literals are told from
//! code, tests from the product, and functions have a first and a last line.
//!
//! It never fails: text that is not Rust gives odd figures, not errors; the compiler is there for the rest.

use std::collections::BTreeSet;

/// One source file, taken apart.
pub struct Source {
    /// What each line is, by index from 0.
    pub lines: Vec<Line>,
    /// The tokens that are left without comments and the insides of literals.
    pub tokens: Vec<Token>,
    /// Modules declared as `#[cfg(test)] mod name;`: their files are tests.
    pub test_modules: BTreeSet<String>,
}

/// What one line holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// There is code on it.
    pub code: bool,
    /// There is a comment on it.
    pub comment: bool,
    /// It belongs to an item under `#[cfg(test)]`.
    pub test: bool,
}

/// A word, `::`, or one character of punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// Its line, from 0.
    pub line: usize,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of the `fn`, from 0.
    pub first: usize,
    /// Line of the closing brace, from 0.
    pub last: usize,
}

impl Function {
    /// Number of lines from `fn` to the closing brace.
    pub fn length(&self) -> usize {
        self.last - self.first + 1
    }
}

impl Source {
    /// Takes `text` apart.
    pub fn parse(text: &str) -> Self {
        let (code, comment_lines) = Blanker::new(text).run();
        let tokens = tokenize(&code);
        let mut lines: Vec<Line> = code
            .lines()
            .enumerate()
            .map(|(number, line)| Line {
                code: !line.trim().is_empty(),
                comment: comment_lines.contains(&number),
                test: false,
            })
            .collect();
        let mut test_modules = BTreeSet::new();
        for item in test_items(&tokens) {
            let last = item.last.min(lines.len().saturating_sub(1));
            for line in &mut lines[item.first..=last] {
                line.test = true;
            }
            test_modules.extend(item.module);
        }
        Self { lines, tokens, test_modules }
    }

    /// The functions with a body, in order.
    pub fn functions(&self) -> Vec<Function> {
        (0..self.tokens.len()).filter_map(|at| function_at(&self.tokens, at)).collect()
    }

    /// The tokens outside tests.
    pub fn product_tokens(&self) -> Vec<&Token> {
        self.tokens.iter().filter(|token| !self.is_test(token.line)).collect()
    }

    /// Whether line `number` belongs to a test.
    pub fn is_test(&self, number: usize) -> bool {
        self.lines.get(number).is_some_and(|line| line.test)
    }
}

/// Replaces comments by spaces and the insides of literals by quotes, line for line.
struct Blanker {
    text: Vec<char>,
    at: usize,
    line: usize,
    out: String,
    comment_lines: BTreeSet<usize>,
}

impl Blanker {
    fn new(text: &str) -> Self {
        Self {
            text: text.chars().collect(),
            at: 0,
            line: 0,
            out: String::new(),
            comment_lines: BTreeSet::new(),
        }
    }

    fn run(mut self) -> (String, BTreeSet<usize>) {
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '/') => self.line_comment(),
                ('/', '*') => self.block_comment(),
                ('"', _) => self.string(),
                ('r', '"' | '#') if !self.in_word() && self.raw_hashes(1).is_some() => self.raw_string(1),
                ('b' | 'c', 'r') if !self.in_word() && self.raw_hashes(2).is_some() => self.raw_string(2),
                ('\'', _) => self.quote(),
                _ => self.keep(),
            }
        }
        (self.out, self.comment_lines)
    }

    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn in_word(&self) -> bool {
        self.at > 0 && is_word(self.text[self.at - 1])
    }

    fn keep(&mut self) {
        self.put(self.peek(0));
    }

    /// Consumes one character, writing `instead` unless it ends a line.
    fn put(&mut self, instead: char) {
        if self.peek(0) == '\n' {
            self.line += 1;
            self.out.push('\n');
        } else {
            self.out.push(instead);
        }
        self.at += 1;
    }

    fn put_comment(&mut self) {
        if !self.peek(0).is_whitespace() {
            self.comment_lines.insert(self.line);
        }
        self.put(' ');
    }

    fn line_comment(&mut self) {
        while self.at < self.text.len() && self.peek(0) != '\n' {
            self.put_comment();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_u32;
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.put_comment();
                    continue;
                }
            }
            self.put_comment();
            self.put_comment();
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.put('"');
        while self.at < self.text.len() {
            match self.peek(0) {
                '\\' => {
                    self.put('"');
                    self.put('"');
                }
                '"' => return self.put('"'),
                _ => self.put('"'),
            }
        }
    }

    /// How many `#` stand before the quote of a raw string whose prefix has `prefix` letters.
    fn raw_hashes(&self, prefix: usize) -> Option<usize> {
        let hashes = (0..).take_while(|n| self.peek(prefix + n) == '#').count();
        (self.peek(prefix + hashes) == '"').then_some(hashes)
    }

    fn raw_string(&mut self, prefix: usize) {
        let hashes = self.raw_hashes(prefix).unwrap_or(0);
        for _ in 0..prefix + hashes + 1 {
            self.put('"');
        }
        while self.at < self.text.len() {
            let closes = self.peek(0) == '"' && (1..=hashes).all(|n| self.peek(n) == '#');
            self.put('"');
            if closes {
                for _ in 0..hashes {
                    self.put('"');
                }
                return;
            }
        }
    }

    /// A character literal, or a lifetime, which is kept.
    fn quote(&mut self) {
        let literal = self.peek(1) == '\\' || self.peek(2) == '\'';
        if !literal {
            return self.keep();
        }
        self.put('"');
        if self.peek(0) == '\\' {
            self.put('"');
        }
        self.put('"');
        while self.at < self.text.len() && self.peek(0) != '\'' {
            self.put('"');
        }
        self.put('"');
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn tokenize(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { text: rest[..length].to_owned(), line });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// The function whose `fn` is token `at`. Pointer types and bodiless declarations are none.
fn function_at(tokens: &[Token], at: usize) -> Option<Function> {
    let name = text_at(tokens, at + 1);
    if text_at(tokens, at) != "fn" || !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return None;
    }
    let open = body_start(tokens, at)?;
    let close = matching_brace(tokens, open)?;
    Some(Function { name: name.to_owned(), first: tokens[at].line, last: tokens[close].line })
}

/// The first `{` outside parentheses and brackets, unless a `;` comes first.
fn body_start(tokens: &[Token], from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "{" if depth == 0 => return Some(at),
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching_brace(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

struct TestItem {
    first: usize,
    last: usize,
    module: Option<String>,
}

/// The items under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn test_items(tokens: &[Token]) -> Vec<TestItem> {
    let attribute = |at: usize, words: &[&str]| {
        words.iter().enumerate().all(|(n, word)| text_at(tokens, at + n) == *word)
    };
    (0..tokens.len())
        .filter(|&at| {
            attribute(at, &["#", "[", "cfg", "(", "test", ")"])
                || attribute(at, &["#", "[", "cfg", "(", "all", "(", "test"])
        })
        .map(|at| test_item(tokens, at))
        .collect()
}

fn test_item(tokens: &[Token], at: usize) -> TestItem {
    let end = match body_start(tokens, at) {
        Some(open) => matching_brace(tokens, open).unwrap_or(tokens.len() - 1),
        None => (at..tokens.len()).find(|&n| text_at(tokens, n) == ";").unwrap_or(tokens.len() - 1),
    };
    let module = (at..end)
        .find(|&n| text_at(tokens, n) == "mod" && text_at(tokens, n + 2) == ";")
        .map(|n| text_at(tokens, n + 1).to_owned());
    TestItem { first: tokens[at].line, last: tokens[end].line, module }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r##"//! Says what it is. fn not_one() {}
use std::fs;

/// Doc.
pub fn first(f: fn(u8) -> u8, table: [u8; 2]) -> char {
    let text = "} fn no() { // not a comment";
    let raw = r#"a " quote } "#; /* a /* nested */ comment { */
    let byte = b'\''; let tick = '{';
    longer::<'static>(text, raw)
}

trait T {
    fn declared(&self);
}

#[cfg(test)]
mod tests {
    #[test]
    fn inside() {
        x.unwrap();
    }
}
#[cfg(test)]
mod elsewhere;
"##;

    #[test]
    fn functions_have_their_lines() {
        let source = Source::parse(SAMPLE);
        let found = source.functions();
        assert_eq!(
            found.iter().map(|f| (f.name.as_str(), f.first, f.length())).collect::<Vec<_>>(),
            [("first", 4, 6), ("inside", 18, 3)]
        );
    }

    #[test]
    fn comments_and_tests_are_told_apart() {
        let source = Source::parse(SAMPLE);
        assert_eq!(source.lines[0], Line { code: false, comment: true, test: false });
        assert_eq!(source.lines[5], Line { code: true, comment: false, test: false });
        assert_eq!(source.lines[6], Line { code: true, comment: true, test: false });
        assert!(source.lines[2] == Line::default());
        assert!(!source.is_test(12) && source.is_test(15) && source.is_test(21) && source.is_test(23));
        assert_eq!(source.test_modules, BTreeSet::from(["elsewhere".to_owned()]));
    }

    #[test]
    fn product_tokens_leave_tests_and_literals_out() {
        let source = Source::parse(SAMPLE);
        let words: Vec<_> = source.product_tokens().into_iter().map(|t| t.text.as_str()).collect();
        assert!(!words.contains(&"unwrap") && !words.contains(&"no") && !words.contains(&"nested"));
        assert!(words.contains(&"'") && words.contains(&"::") && words.contains(&"longer"));
    }

    #[test]
    fn unfinished_text_ends() {
        for text in
            ["", "fn", "fn a(", "fn a() {", "\"open", "r#\"open", "/* open", "'", "'\\", "#[cfg(test)]"]
        {
            let source = Source::parse(text);
            assert!(source.functions().is_empty(), "{text}");
        }
    }
}
