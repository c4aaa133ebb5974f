//! Colours, or none.

use std::fmt;

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(bool);

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Not as it should be.
    Bad,
    /// Less important.
    Dim,
    /// Neither.
    Plain,
}

impl Paint {
    /// With colours or without.
    #[must_use]
    pub const fn new(on: bool) -> Self {
        Self(on)
    }

    /// Whether there are any.
    #[must_use]
    pub const fn is_on(self) -> bool {
        self.0
    }

    /// Text in a tone.
    #[must_use]
    pub fn tone(self, tone: Tone, text: impl fmt::Display) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Warn => 33,
            Tone::Bad => 31,
            Tone::Dim => 2,
            Tone::Plain => 0,
        };
        if self.0 && code != 0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    /// As it should be.
    #[must_use]
    pub fn good(self, text: impl fmt::Display) -> String {
        self.tone(Tone::Good, text)
    }

    /// Worth a look.
    #[must_use]
    pub fn warn(self, text: impl fmt::Display) -> String {
        self.tone(Tone::Warn, text)
    }

    /// Not as it should be.
    #[must_use]
    pub fn bad(self, text: impl fmt::Display) -> String {
        self.tone(Tone::Bad, text)
    }
}
