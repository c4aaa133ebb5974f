//! The budgets of the house against the tree: how long functions and files are, how often the product may
//! panic, how much is explained and how much is tested.

use std::path::Path;

use anyhow::{Result, bail};

use crate::limits;
use crate::rooms::{Kind, PROGRAMS, ROOMS, Room};
use crate::sh;
use crate::source::Source;
use crate::tree::{self, File};

/// Prints the table; fails if a wall is crossed. What is no wall is only marked with `!`.
pub fn run() -> Result<()> {
    let root = sh::root();
    let mut figures = Vec::new();
    for room in ROOMS.iter().chain([&PROGRAMS]).filter(|room| root.join(room.dir).exists()) {
        let files = tree::read_room(&root.join(room.dir))?;
        figures.push(Figures::of(room, &root, &files));
    }
    print(&figures);
    let walls: Vec<_> = figures.iter().flat_map(|f| &f.walls).collect();
    for wall in &walls {
        println!("size: {wall}");
    }
    if !walls.is_empty() {
        bail!("{} wall(s) crossed", walls.len());
    }
    Ok(())
}

/// What is measured of one room. Tests are apart: they count only for their ratio.
struct Figures {
    room: &'static str,
    pure: bool,
    files: Vec<usize>,
    functions: Vec<usize>,
    code: usize,
    comments: usize,
    tests: usize,
    panics: usize,
    walls: Vec<String>,
}

impl Figures {
    fn of(room: &Room, root: &Path, files: &[File]) -> Self {
        let mut figures = Self {
            room: room.dir,
            pure: room.kind == Kind::Pure,
            files: Vec::new(),
            functions: Vec::new(),
            code: 0,
            comments: 0,
            tests: 0,
            panics: 0,
            walls: Vec::new(),
        };
        for file in files {
            figures.add(file.path.strip_prefix(root).unwrap_or(&file.path), &file.source, file.all_test);
        }
        figures.files.sort_unstable();
        figures.functions.sort_unstable();
        figures.check_room();
        figures
    }

    fn add(&mut self, path: &Path, source: &Source, all_test: bool) {
        let test = |line: usize| all_test || source.is_test(line);
        let mut product_lines = 0;
        for (number, line) in source.lines.iter().enumerate() {
            match test(number) {
                true => self.tests += usize::from(line.code),
                false => {
                    product_lines += 1;
                    self.code += usize::from(line.code);
                    self.comments += usize::from(line.comment);
                }
            }
        }
        if all_test {
            return;
        }
        self.files.push(product_lines);
        if product_lines > limits::FILE_WALL {
            self.walls.push(format!("{}: {product_lines} lines", path.display()));
        }
        self.add_functions(path, source);
        self.add_panics(path, source);
    }

    fn add_functions(&mut self, path: &Path, source: &Source) {
        for function in source.functions().into_iter().filter(|f| !source.is_test(f.first)) {
            self.functions.push(function.length());
            if function.length() > limits::FUNCTION_WALL {
                let (name, length) = (&function.name, function.length());
                self.walls.push(format!(
                    "{}:{}: fn {name} has {length} lines",
                    path.display(),
                    function.first + 1
                ));
            }
        }
    }

    fn add_panics(&mut self, path: &Path, source: &Source) {
        for line in panics(source) {
            self.panics += 1;
            if self.pure {
                self.walls.push(format!("{}:{}: may panic, in a pure crate", path.display(), line + 1));
            }
        }
    }

    fn check_room(&mut self) {
        let p90 = percentile(&self.functions, 90);
        if p90 > limits::FUNCTION_P90 {
            self.walls.push(format!("{}: nine functions in ten have up to {p90} lines", self.room));
        }
        if self.panics_per_1000() > limits::PANICS_PER_1000 {
            self.walls.push(format!("{}: {:.1} panics per 1,000 lines", self.room, self.panics_per_1000()));
        }
    }

    fn panics_per_1000(&self) -> f64 {
        // One in a small crate is not a habit: a crate counts as having at least 1,000 lines.
        self.panics as f64 * 1000.0 / self.code.max(1000) as f64
    }

    fn row(&self) -> String {
        let comments = ratio(self.comments, self.code);
        let tests = ratio(self.tests, self.code);
        let wanted = if self.pure { limits::TESTS_PURE } else { limits::TESTS_ELSEWHERE };
        format!(
            "{:<20} {:>6} {:>6} {:>4}/{:>3}/{:>3} {:>5}/{:>4}{} {:>6.1} {:>8.2}{} {:>6.2}{}",
            self.room,
            self.code,
            self.tests,
            percentile(&self.functions, 50),
            percentile(&self.functions, 90),
            percentile(&self.functions, 100),
            percentile(&self.files, 50),
            percentile(&self.files, 100),
            mark(percentile(&self.files, 50) > limits::FILE_TYPICAL),
            self.panics_per_1000(),
            comments,
            mark(!limits::COMMENTS.contains(&comments)),
            tests,
            mark(tests < wanted),
        )
    }
}

/// The lines of `.unwrap()`, `.expect(…)` and the panicking macros outside tests.
fn panics(source: &Source) -> Vec<usize> {
    let tokens: Vec<_> = source.product_tokens();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    (1..tokens.len())
        .filter(|&at| match text(at) {
            "unwrap" | "expect" => text(at - 1) == "." && text(at + 1) == "(",
            "panic" | "unreachable" | "todo" | "unimplemented" => text(at + 1) == "!",
            _ => false,
        })
        .map(|at| tokens[at].line)
        .collect()
}

fn print(figures: &[Figures]) {
    println!(
        "{:<20} {:>6} {:>6} {:>12} {:>11} {:>6} {:>9} {:>7}",
        "room", "code", "tests", "fn 50/90/max", "file 50/max", "panics", "comments", "tests"
    );
    for room in figures.iter().filter(|room| room.code + room.tests > 0) {
        println!("{}", room.row());
    }
    println!("lines; panics per 1,000 of code; comments and tests per line of code; ! is outside the budget");
}

/// The `percent`th percentile of `sorted` by nearest rank; 0 of nothing.
fn percentile(sorted: &[usize], percent: usize) -> usize {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).and_then(|at| sorted.get(at)).copied().unwrap_or(0)
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn mark(outside: bool) -> char {
    if outside { '!' } else { ' ' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(dir: &'static str, text: &str) -> Figures {
        let room = ROOMS.iter().find(|room| room.dir == dir).unwrap();
        let path = sh::root().join(dir).join("src/a.rs");
        Figures::of(room, &sh::root(), &[File { path, source: Source::parse(text), all_test: false }])
    }

    #[test]
    fn long_functions_and_files_are_walls() {
        let body = "    step();\n".repeat(70);
        let long = figures("cluster", &format!("fn long() {{\n{body}}}\n"));
        assert_eq!(long.walls[0], "cluster/src/a.rs:1: fn long has 72 lines");
        let lines = "const A: u8 = 1;\n".repeat(601);
        assert_eq!(figures("cluster", &lines).walls, ["cluster/src/a.rs: 601 lines"]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        assert!(figures("cluster", &tests).walls.is_empty());
    }

    #[test]
    fn a_pure_crate_may_not_panic_and_a_shell_seldom() {
        let one = "fn f() { x.unwrap() }\nfn g() { x.unwrap_or(1); let expect = 2; }\n";
        assert_eq!(figures("policy", one).walls, ["policy/src/a.rs:1: may panic, in a pure crate"]);
        assert!(figures("cluster", one).walls.is_empty());
        let four = "fn f() { panic!(\"a\"); a.expect(\"b\"); unreachable!(); x.unwrap() }";
        assert_eq!(figures("cluster", four).walls, ["cluster: 4.0 panics per 1,000 lines"]);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let ten: Vec<usize> = (1..=10).collect();
        assert_eq!((percentile(&ten, 50), percentile(&ten, 90), percentile(&ten, 100)), (5, 9, 10));
        assert_eq!((percentile(&[7], 50), percentile(&[], 50)), (7, 0));
    }

    #[test]
    fn ratios_count_lines_of_code() {
        let figures =
            figures("cluster", "// why\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n");
        assert_eq!((figures.code, figures.comments, figures.tests), (1, 1, 4));
    }
}
