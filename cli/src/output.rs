//! Where text goes.

use std::io::{self, BufWriter, IsTerminal, Write};

use countersign_agent_api::ClientError;
use serde::Serialize;

use crate::args::Color;
use crate::render::escape::{Safe, safe_json, safe_text};
use crate::render::paint::Paint;
use crate::target::Target;

/// Stdout for results, stderr for the rest.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Whether results have colours.
    pub paint: Paint,
    errors: Paint,
}

impl Output {
    /// Decides about colours.
    #[must_use]
    pub fn new(color: Color) -> Self {
        let quiet = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let wanted = |terminal| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !quiet("NO_COLOR") && !dumb,
        };
        Self {
            paint: Paint::new(wanted(io::stdout().is_terminal())),
            errors: Paint::new(wanted(io::stderr().is_terminal())),
        }
    }

    /// Prints text that is safe already.
    ///
    /// # Errors
    /// Stdout is gone.
    pub fn text(&self, text: &str) -> io::Result<()> {
        let mut stdout = BufWriter::new(io::stdout().lock());
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Stdout for many lines, each of them safe already.
    #[must_use]
    pub fn lines(&self) -> impl Write {
        BufWriter::new(io::stdout().lock())
    }

    /// Prints text as it is, except for what would control the terminal.
    ///
    /// # Errors
    /// Stdout is gone.
    pub fn untrusted(&self, text: &str) -> io::Result<()> {
        self.text(&safe_text(text))
    }

    /// Prints a value over several lines.
    ///
    /// # Errors
    /// Stdout is gone.
    pub fn json<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.text(&format!("{}\n", safe_json(&text)))
    }

    /// Prints a value on one line.
    ///
    /// # Errors
    /// Stdout is gone.
    pub fn json_line<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.text(&format!("{}\n", safe_json(&text)))
    }

    /// Says what went wrong, and why.
    pub fn complain(&self, error: &anyhow::Error) {
        match error.downcast_ref::<ClientError>() {
            Some(client) => self.line_of_error(&client.to_string(), client.hint()),
            None => self.line_of_error(&format!("{error:#}"), ""),
        }
    }

    /// Says why an agent did not answer.
    pub fn complain_of(&self, target: &Target, error: &ClientError) {
        let node = target.node.as_ref().map_or(String::new(), |node| format!("node {node}: "));
        self.line_of_error(&format!("{node}{error}"), error.hint());
    }

    /// Says something that is no result.
    pub fn note(&self, text: &str) {
        // Nobody is left to be told that stderr is gone.
        let _ = writeln!(io::stderr(), "{}", Safe(text));
    }

    fn line_of_error(&self, message: &str, hint: &str) {
        let hint = if hint.is_empty() { String::new() } else { format!("\n  {}", Safe(hint)) };
        // Nobody is left to be told that stderr is gone.
        let _ = writeln!(io::stderr(), "{} {}{hint}", self.errors.bad("error:"), Safe(message));
    }
}
