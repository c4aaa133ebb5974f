//! Texts made of others: as text, as values, and of nothing but the characters that mean something.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// Texts and values kept beside the seeds; the oldest make room at random.
const KEPT: usize = 2_000;
/// Texts do not grow beyond this, bytes.
const LONGEST: usize = 64 << 10;

/// A small generator: the same seed, the same texts (SplitMix64).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What somebody who means harm would put into a text.
const GRAFTS: &[&str] = &[
    "&a ",
    "*a",
    "<<: *a\n",
    "[",
    "]",
    "{",
    "}",
    ": ",
    ",",
    "\n  ",
    "\n- ",
    "\t",
    "!!int ",
    "!!binary ",
    "!x ",
    "|\n",
    ">-\n",
    "'",
    "\"",
    "\\u0000",
    "\\ud83d",
    "\u{0}",
    "\u{feff}",
    "\u{2028}",
    "\u{10ffff}",
    "é",
    "0x",
    "0b",
    "0o8",
    "1e999",
    "-0",
    ".nan",
    ".inf",
    "~",
    "? ",
    "- ",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "#",
    "99999999999999999999",
    "-1",
    "65535",
    "65536",
    "10.0.0.0/33",
    "::/0",
    "::ffff:10.0.0.1/128",
    "0.0.0.0/0",
    "k8s:",
    "any:",
    "reserved:",
    "cidr:",
    "reserved:host",
    "cidrgroup:",
    "io.kubernetes.pod.namespace",
    "io.cilium.k8s.namespace.labels.",
    "true",
    "null",
];

/// Keys that documents have, and one that none has.
const KEYS: &[&str] = &[
    "spec",
    "specs",
    "kind",
    "items",
    "metadata",
    "name",
    "namespace",
    "endpointSelector",
    "nodeSelector",
    "podSelector",
    "namespaceSelector",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "ingress",
    "egress",
    "ingressDeny",
    "egressDeny",
    "fromEndpoints",
    "toEndpoints",
    "fromRequires",
    "fromEntities",
    "toEntities",
    "fromCIDR",
    "toCIDR",
    "fromCIDRSet",
    "toCIDRSet",
    "cidr",
    "except",
    "cidrGroupRef",
    "cidrGroupSelector",
    "fromNodes",
    "toNodes",
    "toServices",
    "toFQDNs",
    "toGroups",
    "matchName",
    "matchPattern",
    "toPorts",
    "ports",
    "port",
    "endPort",
    "protocol",
    "rules",
    "http",
    "kafka",
    "dns",
    "l7proto",
    "serverNames",
    "terminatingTLS",
    "listener",
    "icmps",
    "fields",
    "type",
    "family",
    "authentication",
    "mode",
    "enableDefaultDeny",
    "labels",
    "annotations",
    "description",
    "log",
    "from",
    "to",
    "ipBlock",
    "policyTypes",
    "tier",
    "priority",
    "subject",
    "action",
    "networks",
    "namespaces",
    "pods",
    "nodes",
    "protocols",
    "destinationPort",
    "number",
    "range",
    "start",
    "end",
    "externalCIDRs",
    "status",
    "podIP",
    "surprise",
];

/// The kinds of document.
const KINDS: &[(&str, &str)] = &[
    ("cilium.io/v2", "CiliumNetworkPolicy"),
    ("cilium.io/v1alpha1", "CiliumNetworkPolicy"),
    ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
    ("cilium.io/v2", "CiliumCIDRGroup"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
    ("v1", "Pod"),
    ("v1", "List"),
];

pub struct Mutator {
    rng: Rng,
    seeds: usize,
    texts: Vec<String>,
    values: Vec<Value>,
}

impl Mutator {
    pub fn new(rng: Rng, texts: Vec<String>) -> Self {
        let read = |text: &String| countersign_policy::yaml::parse(text).unwrap_or_default();
        let values: Vec<Value> = texts.iter().flat_map(read).map(|document| document.value).collect();
        assert!(values.len() >= texts.len(), "a seed cannot be read");
        Self { rng, seeds: texts.len(), texts, values }
    }

    /// Keeps what was accepted, to be mutated further.
    pub fn keep(&mut self, text: String, values: impl Iterator<Item = Value>) {
        self.put(|all| &mut all.texts, text);
        for value in values {
            self.put(|all| &mut all.values, value);
        }
    }

    fn put<T>(&mut self, list: impl Fn(&mut Self) -> &mut Vec<T>, item: T) {
        let (seeds, place) = (self.seeds, self.rng.below(KEPT));
        let list = list(self);
        if list.len() < seeds + KEPT {
            list.push(item);
        } else {
            list[seeds + place] = item;
        }
    }

    pub fn next_text(&mut self) -> String {
        match self.rng.below(20) {
            0 => self.noise(),
            1 => self.bytes(),
            2..=8 => {
                let text = self.rng.one(&self.texts).clone();
                self.mutate_text(text)
            }
            choice => {
                let text = self.mutated_value();
                // Some are mutated as text on top of it.
                if choice > 17 { self.mutate_text(text) } else { text }
            }
        }
    }

    fn noise(&mut self) -> String {
        let pieces = self.rng.below(80);
        let piece = |rng: &mut Rng| if rng.below(3) == 0 { *rng.one(KEYS) } else { *rng.one(GRAFTS) };
        (0..pieces).map(|_| piece(&mut self.rng)).collect()
    }

    fn bytes(&mut self) -> String {
        let length = self.rng.below(400);
        let bytes: Vec<u8> = (0..length).map(|_| self.rng.next() as u8).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn mutate_text(&mut self, mut text: String) -> String {
        for _ in 0..=self.rng.below(6) {
            text = self.change_text(text);
            if text.len() > LONGEST {
                text.truncate(floor(&text, LONGEST));
            }
        }
        text
    }

    fn change_text(&mut self, text: String) -> String {
        let (a, b) = (self.rng.below(text.len() + 1), self.rng.below(text.len() + 1));
        let (from, to) = (floor(&text, a.min(b)), floor(&text, a.max(b)));
        let near = floor(&text, from + self.rng.below(12));
        let near = near.max(from);
        match self.rng.below(8) {
            0 => format!("{}{}", &text[..from], &text[to..]),
            1 => format!("{}{}{}", &text[..to], &text[from..to], &text[to..]),
            2 => {
                let times = 1 + self.rng.below(200);
                format!("{}{}{}", &text[..from], text[from..near].repeat(times), &text[near..])
            }
            3 => {
                let other = self.rng.one(&self.texts);
                let cut = floor(other, a.min(other.len()));
                format!("{}{}", &text[..from], &other[cut..])
            }
            4 => format!("{}{}{}", &text[..from], char::from(self.rng.next() as u8), &text[near..]),
            5 => {
                let other = self.rng.one(&self.texts);
                format!("{text}\n---\n{other}")
            }
            _ => format!("{}{}{}", &text[..from], self.rng.one(GRAFTS), &text[near..]),
        }
    }

    /// A value with some of its parts changed, written as JSON, or as YAML in blocks, or as several documents.
    fn mutated_value(&mut self) -> String {
        let mut value = self.rng.one(&self.values).clone();
        for _ in 0..=self.rng.below(4) {
            let donor = self.rng.one(&self.values).clone();
            change(&mut self.rng, &mut value, &donor);
        }
        if self.rng.below(10) == 0 {
            let (version, kind) = *self.rng.one(KINDS);
            if let Value::Object(fields) = &mut value {
                fields.insert("apiVersion".to_owned(), json!(version));
                fields.insert("kind".to_owned(), json!(kind));
            }
        }
        if self.rng.below(20) == 0 {
            value = json!({"kind": "List", "apiVersion": "v1", "items": [value, self.rng.one(&self.values)]});
        }
        let text = if self.rng.below(2) == 0 { value.to_string() } else { blocks(&value) };
        if text.len() > LONGEST { text[..floor(&text, LONGEST)].to_owned() } else { text }
    }
}

/// The last boundary of characters up to `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Changes one part of a value, chosen at random.
fn change(rng: &mut Rng, value: &mut Value, donor: &Value) {
    let mut here = value;
    // Down until chance, or the end, stops it.
    while rng.below(5) != 0 {
        let step = children(here);
        if step == 0 {
            break;
        }
        let index = rng.below(step);
        here = match here {
            Value::Array(items) => &mut items[index],
            Value::Object(fields) => fields.values_mut().nth(index).expect("there are as many"),
            _ => break,
        };
    }
    match (rng.below(7), here) {
        (0 | 1, Value::Object(fields)) => {
            let value = part(rng, donor);
            fields.insert((*rng.one(KEYS)).to_owned(), value);
        }
        (2, Value::Object(fields)) if !fields.is_empty() => {
            let key = fields.keys().nth(rng.below(fields.len())).cloned().unwrap_or_default();
            fields.remove(&key);
        }
        (0 | 1, Value::Array(items)) => items.push(part(rng, donor)),
        (2, Value::Array(items)) if !items.is_empty() => drop(items.remove(rng.below(items.len()))),
        (3, Value::Array(items)) if !items.is_empty() && items.len() < 64 => {
            let item = rng.one(items).clone();
            items.extend(vec![item; 1 + rng.below(40)]);
        }
        (4, here) => *here = json!([here.take()]),
        (5, here) => *here = part(rng, donor),
        (_, here) => *here = scalar(rng),
    }
}

fn children(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    }
}

/// Some part of a value.
fn part(rng: &mut Rng, of: &Value) -> Value {
    let mut here = of;
    loop {
        let count = children(here);
        if count == 0 || rng.below(4) == 0 {
            return here.clone();
        }
        let index = rng.below(count);
        here = match here {
            Value::Array(items) => &items[index],
            Value::Object(fields) => fields.values().nth(index).unwrap_or(here),
            _ => return here.clone(),
        };
    }
}

fn scalar(rng: &mut Rng) -> Value {
    match rng.below(10) {
        0 => Value::Null,
        1 => json!(rng.below(2) == 0),
        2 => json!([0, 1, 80, 65_535, 65_536, 4_294_967_296_u64, u64::MAX][rng.below(7)]),
        3 => json!([-1, i64::MIN, i64::MAX][rng.below(3)]),
        4 => json!([0.5, -0.0, 1e300][rng.below(3)]),
        5 => json!({}),
        6 => json!([]),
        7 => json!("x".repeat(1 + rng.below(500))),
        _ => json!(*rng.one(GRAFTS)),
    }
}

/// A value as people write it.
fn blocks(value: &Value) -> String {
    let mut text = String::new();
    write_block(value, 0, &mut text);
    text
}

fn write_block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            // In order, as a map of strings is.
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            for (key, value) in sorted {
                let _ = write!(text, "{pad}{}:", Value::String(key.clone()));
                write_inside(value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(text, "{pad}-");
                write_inside(item, indent + 2, text);
            }
        }
        other => {
            let _ = writeln!(text, "{pad}{other}");
        }
    }
}

fn write_inside(value: &Value, indent: usize, text: &mut String) {
    if children(value) == 0 {
        let plain = matches!(value, Value::String(word) if !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()));
        let _ = match value {
            Value::String(word) if plain => writeln!(text, " {word}"),
            other => writeln!(text, " {other}"),
        };
        return;
    }
    text.push('\n');
    write_block(value, indent, text);
}
