//! YAML in, values and lines out; nothing panics, everything is bounded.

use countersign_policy::limits;
use countersign_policy::yaml::{Document, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

fn one(text: &str) -> Value {
    let documents = parse(text).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents[0].value.clone()
}

fn fault(text: &str) -> (u32, String) {
    let error = parse(text).unwrap_err();
    (error.line, error.message)
}

#[test]
fn scalars_resolve_as_kubectl_does() {
    let table = [
        ("80", json!(80)),
        ("-1", json!(-1)),
        ("+7", json!(7)),
        ("0x1f", json!(31)),
        ("0o17", json!(15)),
        ("0644", json!(420)),
        ("0b11", json!(3)),
        ("0", json!(0)),
        ("089", json!(89)),
        ("1.20", json!(1.2)),
        ("1e3", json!(1000.0)),
        ("true", json!(true)),
        ("yes", json!(true)),
        ("off", json!(false)),
        ("y", json!("y")),
        ("~", Value::Null),
        ("null", Value::Null),
        ("\"80\"", json!("80")),
        ("'yes'", json!("yes")),
        ("!!str 80", json!("80")),
        ("!!int 80", json!(80)),
        ("1.2.3.4", json!("1.2.3.4")),
        ("10.0.0.0/8", json!("10.0.0.0/8")),
        ("2001:db8::1", json!("2001:db8::1")),
        ("e", json!("e")),
        ("-", json!([null])),
        ("18446744073709551616", json!(18_446_744_073_709_551_616.0)),
    ];
    for (text, value) in table {
        let text = if text == "-" { "a:\n-".to_owned() } else { format!("a: {text}") };
        assert_eq!(one(&text)["a"], value, "{text}");
    }
}

#[test]
fn json_is_yaml() {
    assert_eq!(one(r#"{"a":{"b":[1,true,null,"x",[],{}]}}"#), json!({"a":{"b":[1,true,null,"x",[],{}]}}));
}

#[test]
fn documents_are_split_and_empty_ones_left_out() {
    let documents = parse("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
    let values: Vec<Value> = documents.into_iter().map(|d| d.value).collect();
    assert_eq!(values, vec![json!({"a":1}), json!({"b":2})]);
    assert!(parse("").unwrap().is_empty());
}

#[test]
fn anchors_merge_keys_and_their_order() {
    let value = one("base: &b {a: 1, b: 2}\nx:\n  <<: *b\n  b: 3\ny: {<<: [{a: 9}, *b]}\n");
    assert_eq!(value["x"], json!({"a":1,"b":3}));
    assert_eq!(value["y"], json!({"a":9,"b":2}));
    assert_eq!(one("'<<': 1"), json!({"<<":1}));
}

#[test]
fn lists_become_their_items_with_their_lines() {
    let text = "kind: List\napiVersion: v1\nitems:\n- kind: A\n  spec:\n    x: 1\n- kind: B\n";
    let documents = parse(text).unwrap();
    assert_eq!(documents.iter().map(Document::kind).collect::<Vec<_>>(), ["A", "B"]);
    assert_eq!(documents[0].lines.at("spec.x"), Some(6));
    assert_eq!(documents[1].lines.line(), Some(7));
}

#[test]
fn lines_are_those_of_the_keys() {
    let text = "# a comment\nspec:\n  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        io.x/app: web\n    toPorts:\n";
    let lines = parse(text).unwrap().remove(0).lines;
    assert_eq!(lines.at("spec"), Some(2));
    assert_eq!(lines.at("spec.ingress[0].fromEndpoints"), Some(4));
    assert_eq!(lines.at("spec.ingress[0].fromEndpoints[0].matchLabels[\"io.x/app\"]"), Some(6));
    assert_eq!(lines.at("spec.ingress[0].toPorts"), Some(7));
    assert_eq!(lines.at("spec.ingress[0].toPorts[3].ports"), Some(7), "the nearest thing that is there");
    assert_eq!(lines.at(""), Some(2));
    assert_eq!(Document::from_value(json!({"a":1})).lines.at("a"), None);
}

#[test]
fn faults_name_their_line() {
    assert_eq!(fault("a: 1\nb: [1,\n").0, 3);
    assert_eq!(fault("a: 1\nb: 2\na: 3\n"), (3, "the key \"a\" is given twice".to_owned()));
    assert_eq!(fault("a: 1\nb:\n- x\n c: 2\n").0, 4);
    assert_eq!(fault("a: .nan").0, 1);
    assert_eq!(fault("a: !!binary xx").0, 1);
    assert_eq!(fault("a: !custom xx").0, 1);
    assert_eq!(fault("a:\n  ? [x]\n  : y\n").0, 2);
    assert_eq!(fault("a: &x [*x]").0, 1);
    assert_eq!(fault("a:\n  <<: 3").0, 2);
}

#[test]
fn size_depth_and_aliases_are_bounded() {
    let long = "a".repeat(limits::TEXT_BYTES + 1);
    assert!(fault(&long).1.contains("bytes of text"));
    let deep = "[".repeat(limits::DEPTH + 1);
    assert!(fault(&deep).1.contains("deep"));
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let alias = format!("*a{}", level - 1);
        laughs += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
    }
    assert!(fault(&laughs).1.contains("aliases expanded"));
    // Few values, each of them long: three hundred thousand times a megabyte.
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 300_000].join(","));
    assert!(fault(&long).1.contains("bytes of text, aliases expanded"));
    let keys = format!("a: &a {{{}: 1}}\nb: [{}]\n", "x".repeat(1000), vec!["*a"; 100_000].join(","));
    assert!(fault(&keys).1.contains("bytes of text, aliases expanded"));
}

/// YAML-shaped noise: the characters that mean something, more often than the rest.
fn noise() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("- "),
        Just(": "),
        Just("\n"),
        Just("  "),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just("&a "),
        Just("*a"),
        Just("<<: "),
        Just("|\n"),
        Just(">-\n"),
        Just("\""),
        Just("'"),
        Just("---\n"),
        Just("...\n"),
        Just("? "),
        Just("!!str "),
        Just("!x "),
        Just("%YAML 1.2\n"),
        Just("#"),
        Just("key"),
        Just("12"),
        Just("\t"),
        Just("\u{feff}"),
        Just("é"),
        Just("\0"),
        Just("\\x"),
        Just("List"),
        Just("items"),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn noise_does_not_panic(text in noise()) {
        let _ = parse(&text);
    }

    #[test]
    fn bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn json_comes_back_as_it_was(numbers in prop::collection::vec(any::<i64>(), 0..9), text in "[ -~]{0,40}") {
        let value = json!({"n": numbers, "t": text, "e": [], "m": {"x": null}});
        let documents = parse(&value.to_string()).unwrap();
        prop_assert_eq!(&documents[0].value, &value);
    }
}
