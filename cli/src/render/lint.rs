//! `policy lint -o table`.

use countersign_policy::lint::Severity;

use super::escape::Safe;
use super::paint::Paint;
use crate::commands::lint::Located;

/// A finding, where it is, and what to do about it.
#[must_use]
pub fn text(found: &[Located], paint: Paint) -> String {
    let mut text = String::new();
    for one in found {
        let severity = match one.severity {
            Severity::Error => paint.bad("error"),
            Severity::Warning => paint.warn("warning"),
            Severity::Note => "note".to_owned(),
        };
        let path = if one.path.is_empty() { String::new() } else { format!(" {}", one.path) };
        let at = Safe(&format!("{}:{}", one.file, one.line)).to_string();
        let said = Safe(&format!("{}{path}: {}", one.policy, one.message)).to_string();
        text.push_str(&format!("{at}: {severity} [{}] {said}\n", one.check));
        if !one.fix.is_empty() {
            text.push_str(&format!("    fix: {}\n", Safe(&one.fix)));
        }
    }
    let count = |severity| found.iter().filter(|one| one.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    text.push_str(&format!("{errors} errors, {warnings} warnings, {notes} notes\n"));
    text
}
