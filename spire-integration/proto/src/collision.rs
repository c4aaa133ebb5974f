//! Whether two templates of SPIFFE IDs can make the same ID, and whether one can make the same ID of two things.
//!
//! Names of Kubernetes objects are chosen by users: a service account called `node1` in a namespace called
//! `spire-node` must not become the SPIRE agent of a node.

/// What may stand in a gap.
fn may_stand_in(gap: &str, byte: u8) -> bool {
    let digit = byte.is_ascii_digit();
    match gap {
        "number" => digit,
        // Names: what the API server, and our own reader, take.
        _ => digit || byte.is_ascii_lowercase() || byte == b'-' || byte == b'.',
    }
}

/// A segment of a path: its text before, between and behind its gaps.
struct Segment<'a> {
    texts: Vec<&'a str>,
    gaps: Vec<&'a str>,
}

impl<'a> Segment<'a> {
    fn of(text: &'a str) -> Self {
        let mut pieces = text.split(['{', '}']);
        let mut segment = Self { texts: vec![pieces.next().unwrap_or_default()], gaps: Vec::new() };
        while let (Some(gap), Some(text)) = (pieces.next(), pieces.next()) {
            segment.gaps.push(gap);
            segment.texts.push(text);
        }
        segment
    }

    fn first(&self) -> &'a str {
        self.texts.first().copied().unwrap_or_default()
    }

    fn last(&self) -> &'a str {
        self.texts.last().copied().unwrap_or_default()
    }

    /// Whether some filling makes `fixed`; it may say yes where none does, never the reverse.
    fn may_be(&self, fixed: &str) -> bool {
        let Some(behind) = fixed.strip_prefix(self.first()) else { return false };
        let Some(middle) = behind.strip_suffix(self.last()) else { return false };
        !middle.is_empty() && middle.bytes().all(|byte| self.may_hold(byte))
    }

    /// Whether two segments with gaps can be the same text; again with yes where it is not sure.
    fn may_meet(&self, other: &Self) -> bool {
        let either = |a: &str, b: &str, fits: fn(&str, &str) -> bool| fits(a, b) || fits(b, a);
        either(self.first(), other.first(), |a, b| a.starts_with(b))
            && either(self.last(), other.last(), |a, b| a.ends_with(b))
            && self.text().all(|byte| other.may_hold(byte))
            && other.text().all(|byte| self.may_hold(byte))
    }

    fn text(&self) -> impl Iterator<Item = u8> {
        self.texts.iter().flat_map(|text| text.bytes())
    }

    fn may_hold(&self, byte: u8) -> bool {
        self.text().any(|own| own == byte) || self.gaps.iter().any(|gap| may_stand_in(gap, byte))
    }

    /// Whether the filled segment says what filled it: between two gaps there is a byte that neither can hold.
    fn is_readable(&self) -> bool {
        let inner = self.texts.iter().skip(1).zip(self.gaps.windows(2));
        inner
            .into_iter()
            .all(|(text, gaps)| text.bytes().any(|byte| gaps.iter().all(|gap| !may_stand_in(gap, byte))))
    }
}

/// Whether two templates (in `{name}` form, gaps hold no slash) can make one ID.
pub(crate) fn may_collide(one: &str, other: &str) -> bool {
    let (ones, others): (Vec<&str>, Vec<&str>) = (one.split('/').collect(), other.split('/').collect());
    ones.len() == others.len() && ones.iter().zip(&others).all(|(one, other)| segments_may_meet(one, other))
}

fn segments_may_meet(one: &str, other: &str) -> bool {
    let (a, b) = (Segment::of(one), Segment::of(other));
    match (a.gaps.is_empty(), b.gaps.is_empty()) {
        (true, true) => one == other,
        (false, true) => a.may_be(other),
        (true, false) => b.may_be(one),
        (false, false) => a.may_meet(&b),
    }
}

/// Whether two different fillings of a template can make one ID.
pub(crate) fn is_ambiguous(template: &str) -> bool {
    !template.split('/').all(|segment| Segment::of(segment).is_readable())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Templates of few letters, so that they meet often.
    fn templates() -> impl Strategy<Value = String> {
        let pieces = ["a", "b", "-", "_", "1", "{number}", "{namespace}", "{service_account}", "{node}"];
        let segment = prop::collection::vec(select(pieces.to_vec()), 1..5).prop_map(|pieces| pieces.concat());
        prop::collection::vec(segment, 1..3).prop_map(|segments| segments.join("/"))
    }

    /// What users may call things, and the numbers there are.
    fn fillings() -> impl Strategy<Value = [&'static str; 4]> {
        let name = select(vec!["a", "b", "a-b", "b-a", "a.b", "1", "11", "1-a", "a-1", "aa", "ab", "a-a-b"]);
        let number = select(vec!["1", "11", "111"]);
        (number, name.clone(), name.clone(), name).prop_map(|(number, a, b, c)| [number, a, b, c])
    }

    fn fill(template: &str, [number, namespace, account, node]: [&str; 4]) -> String {
        let filled = template.replace("{number}", number).replace("{namespace}", namespace);
        filled.replace("{service_account}", account).replace("{node}", node)
    }

    /// What of a filling a template shows.
    fn shown<'a>(template: &str, filling: [&'a str; 4]) -> Vec<Option<&'a str>> {
        let gaps = ["{number}", "{namespace}", "{service_account}", "{node}"];
        gaps.iter().zip(filling).map(|(gap, value)| template.contains(gap).then_some(value)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 30_000, ..ProptestConfig::default() })]

        #[test]
        fn templates_that_made_one_id_can(
            one in templates(), other in templates(), a in fillings(), b in fillings()
        ) {
            if fill(&one, a) == fill(&other, b) {
                prop_assert!(may_collide(&one, &other));
            }
        }

        #[test]
        fn two_things_of_one_id_are_told_of(template in templates(), a in fillings(), b in fillings()) {
            if fill(&template, a) == fill(&template, b) && shown(&template, a) != shown(&template, b) {
                prop_assert!(is_ambiguous(&template));
            }
        }
    }

    #[test]
    fn templates_that_can_make_one_id() {
        let cases = [
            ("{t}/identity/{number}", "{t}/node/{node}", false),
            ("{t}/{namespace}/{service_account}", "{t}/node/{node}", true),
            ("{t}/ns/{namespace}/sa/{service_account}", "{t}/node/{node}", false),
            ("{t}/{number}", "{t}/{node}", true),
            ("{t}/{number}", "{t}/node-a", false),
            ("{t}/{number}", "{t}/17", true),
            ("{t}/{number}/x", "{t}/node/{node}", false),
            ("{t}/Pods_{namespace}/{service_account}", "{t}/node/{node}", false),
            ("{t}/n{namespace}/{service_account}", "{t}/node/{node}", true),
            ("{t}/n{namespace}/x{service_account}", "{t}/node/y{node}", false),
            ("{t}/{namespace}e/{service_account}", "{t}/node/{node}", true),
            ("{t}/node/{number}", "{t}/node/{node}", true),
            ("{t}/node/{number}_", "{t}/node/{node}", false),
            ("{t}/spire-node/{service_account}/{namespace}", "{t}/spire-node/{node}", false),
        ];
        for (one, other, expected) in cases {
            assert_eq!(may_collide(one, other), expected, "{one} and {other}");
            assert_eq!(may_collide(other, one), expected, "{other} and {one}");
        }
    }

    #[test]
    fn what_filled_a_template_can_be_read_from_it() {
        let cases = [
            ("{t}/identity/{number}", false),
            ("{t}/ns/{namespace}/sa/{service_account}", false),
            ("{t}/{namespace}-{service_account}", true),
            ("{t}/{namespace}.{service_account}", true),
            ("{t}/{namespace}{service_account}", true),
            ("{t}/{namespace}_{service_account}", false),
            ("{t}/{namespace}-SA-{service_account}", false),
            ("{t}/{number}{namespace}/{service_account}", true),
            ("{t}/{number}-{namespace}/{service_account}", true),
        ];
        for (template, expected) in cases {
            assert_eq!(is_ambiguous(template), expected, "{template}");
        }
    }
}
