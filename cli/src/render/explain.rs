//! `policy explain -o table`.

use countersign_agent_api::{ExplainSide, PolicyExplanation};

use super::escape::Safe;
use super::paint::{Paint, Tone};
use super::table::{Table, field, toned};

/// The verdict, each side's reason, and what every rule has to do with it; with `wide` also rules for others.
#[must_use]
pub fn text(explained: &PolicyExplanation, wide: bool, paint: Paint) -> String {
    let verdict = match (explained.verdict.as_str(), explained.auth.as_str()) {
        ("allowed", "none") => paint.good("ALLOWED"),
        ("allowed", _) => paint.good("ALLOWED once authenticated"),
        _ => paint.bad("DENIED"),
    };
    let flow = format!("{} -> {} {}/{}", explained.from, explained.to, explained.protocol, explained.port);
    let mut text = format!("{}: {verdict}\n", Safe(&flow));
    let sides = [("egress", &explained.egress), ("ingress", &explained.ingress)];
    for (name, side) in sides {
        let said = side.as_ref().map_or("no policy applies on this side", |side| side.reason.as_str());
        text.push_str(&format!("  {name:<8}{}\n", Safe(said)));
        if let Some(audit) = side.as_ref().and_then(|side| side.audit.as_ref()) {
            text.push_str(&format!("          {}: {}\n", paint.warn("audit"), Safe(audit)));
        }
    }
    let mut table = Table::new(&["SIDE", "POLICY", "RULE", "LINE", "SPEAKS OF IT", "WHY"], paint);
    let mut hidden = 0;
    for (name, side) in sides {
        hidden += side.as_ref().map_or(0, |side| rows(name, side, wide, &mut table));
    }
    text.push('\n');
    text.push_str(&table.render("No rule is for either of them."));
    if hidden > 0 {
        text.push_str(&format!("… and {hidden} rules for other pods (-o wide).\n"));
    }
    text
}

/// Adds a side's rules; returns how many were left out.
fn rows(name: &str, side: &ExplainSide, wide: bool, table: &mut Table) -> usize {
    let mut hidden = 0;
    for rule in &side.rules {
        if rule.fit == "not-this-endpoint" && !wide {
            hidden += 1;
            continue;
        }
        let line = rule.line.map_or(String::new(), |line| line.to_string());
        let speaks = if rule.fit == "match" { toned(Tone::Good, "yes") } else { toned(Tone::Dim, "no") };
        table.row(vec![
            field(name),
            field(&rule.policy),
            field(&rule.rule),
            field(line),
            speaks,
            field(&rule.why),
        ]);
    }
    hidden
}
