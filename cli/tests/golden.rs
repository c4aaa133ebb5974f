//! What people and programs see, to the letter. `UPDATE_GOLDEN=1 cargo test -p countersign-cli` writes the files
//! anew; read the difference before you commit it.

mod fixtures;

use std::fs;
use std::path::Path;

use countersign_cli::ask::OnNode;
use countersign_cli::render::encrypt::Summary;
use countersign_cli::render::escape::safe_json;
use countersign_cli::render::paint::Paint;
use countersign_cli::render::{auth, endpoint, flow, policy, spire, status};
use fixtures::NOW;
use serde::Serialize;

const PLAIN: Paint = Paint::new(false);
const COLOURS: Paint = Paint::new(true);

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("the golden file is written");
    }
    let golden = fs::read_to_string(&path).expect("a golden file");
    assert!(text == golden, "{name} is now:\n{text}\nand should be:\n{golden}");
}

fn json<T: Serialize>(value: &T) -> String {
    format!("{}\n", safe_json(&serde_json::to_string_pretty(value).expect("JSON")))
}

fn rows<T>(node: Option<&str>, values: Vec<T>) -> Vec<OnNode<T>> {
    values.into_iter().map(|value| OnNode { node: node.map(str::to_owned), value }).collect()
}

#[test]
fn status_of_a_node_that_is_well() {
    check("status-ok.txt", &status::text(&fixtures::status_ok(), NOW, PLAIN));
    check("status-ok.json", &json(&fixtures::status_ok()));
}

#[test]
fn status_of_a_node_that_is_not() {
    check("status-degraded.txt", &status::text(&fixtures::status_degraded(), NOW, PLAIN));
    check("status-degraded-colours.txt", &status::text(&fixtures::status_degraded(), NOW, COLOURS));
}

#[test]
fn spire_status_and_svids() {
    let status = fixtures::spire();
    check("spire.txt", &spire::status(&status, NOW, PLAIN));
    check("spire.json", &json(&status));
    check("svid-show.txt", &spire::show(&status.node, &status.svids[1], NOW, PLAIN));
    check("svid-list.txt", &spire::list(&rows(Some("n1"), vec![status]), true, NOW, PLAIN));
}

#[test]
fn encrypt_status() {
    let both = fixtures::encrypt_both();
    let summary = Summary::of(&both, &[]);
    check("encrypt.txt", &summary.text(NOW, PLAIN));
    check("encrypt.json", &json(&summary));
    let rotating = fixtures::encrypt_rotating();
    check("encrypt-rotating.txt", &Summary::of(&rotating, &[]).text(NOW, PLAIN));
    let one = fixtures::encrypt_with_error();
    check("encrypt-error.txt", &Summary::of(&one, &["n3".into()]).text(NOW, PLAIN));
}

#[test]
fn nodes_count_as_encrypted_when_nobody_objects() {
    let line = |nodes: &[_], unreachable: &[String]| {
        let summary = Summary::of(nodes, unreachable);
        format!("{} ({}/{} nodes)", summary.encryption, summary.encrypted_nodes, summary.total_nodes)
    };
    let both = fixtures::encrypt_both();
    assert_eq!(line(&both, &[]), "Wireguard (2/2 nodes)");
    assert_eq!(line(&both[..1], &[]), "Wireguard (2/2 nodes)");
    assert_eq!(line(&both[..1], &["n2".into()]), "Wireguard (1/2 nodes)");
    assert_eq!(line(&fixtures::encrypt_with_error(), &[]), "Wireguard (0/2 nodes)");
    let mut off = both;
    off.iter_mut().for_each(|node| node.mode = "Disabled".into());
    assert_eq!(line(&off, &[]), "Disabled (0/2 nodes)");
    assert_eq!(line(&[], &[]), "Disabled (0/0 nodes)");
}

#[test]
fn auth_list() {
    let entries = rows(None, fixtures::auth());
    check("auth.txt", &auth::table(&entries, false, false, PLAIN));
    check("auth-colours.txt", &auth::table(&entries, false, false, COLOURS));
    check("auth.json", &json(&entries));
    let entries = rows(Some("n1"), fixtures::auth());
    check("auth-lab-wide.txt", &auth::table(&entries, true, true, PLAIN));
    check("auth-none.txt", &auth::table(&[], false, false, PLAIN));
}

#[test]
fn identity_endpoint_and_ipcache_list() {
    let identities = rows(None, fixtures::identities());
    check("identity.txt", &endpoint::identities(&identities, false, NOW, PLAIN));
    check("identity.json", &json(&identities));
    let endpoints = rows(None, fixtures::endpoints());
    check("endpoint.txt", &endpoint::endpoints(&endpoints, false, false, NOW, PLAIN));
    check("endpoint.json", &json(&endpoints));
    let endpoints = rows(Some("n1"), fixtures::endpoints());
    check("endpoint-lab-wide.txt", &endpoint::endpoints(&endpoints, true, true, NOW, PLAIN));
    let ipcache = rows(None, fixtures::ipcache());
    check("ipcache.txt", &endpoint::ipcache(&ipcache, false, PLAIN));
}

#[test]
fn policy_get() {
    let views = rows(None, vec![fixtures::policy()]);
    check("policy.txt", &policy::text(&views, false, false, PLAIN));
    check("policy-wide.txt", &policy::text(&views, false, true, PLAIN));
    check("policy.json", &json(&fixtures::policy()));
}

#[test]
fn observe() {
    let lines = |node, wide, paint| -> String {
        fixtures::flows().iter().map(|event| flow::line(event, node, wide, paint)).collect()
    };
    check("observe.txt", &lines(None, false, PLAIN));
    check("observe-lab-wide.txt", &lines(Some("n1"), true, PLAIN));
    check("observe-colours.txt", &lines(None, false, COLOURS));
    let json = |event| format!("{}\n", safe_json(&serde_json::to_string(event).expect("JSON")));
    check("observe.jsonl", &fixtures::flows().iter().map(json).collect::<String>());
}

/// Every string of every answer replaced by one that would take the terminal over.
#[test]
fn nothing_from_elsewhere_reaches_the_terminal_unescaped() {
    const EVIL: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\r\n";
    /// Where an enum or an address must stand, the answer stays as it was.
    fn poisoned<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        let mut json = serde_json::to_value(value).expect("JSON");
        let pointers = strings(&json, String::new());
        for pointer in pointers {
            let before = json.clone();
            if let Some(serde_json::Value::String(text)) = json.pointer_mut(&pointer) {
                text.push_str(EVIL);
            }
            if serde_json::from_value::<T>(json.clone()).is_err() {
                json = before;
            }
        }
        serde_json::from_value(json).expect("still an answer")
    }
    fn strings(value: &serde_json::Value, at: String) -> Vec<String> {
        match value {
            serde_json::Value::String(_) => vec![at],
            serde_json::Value::Array(items) => {
                items.iter().enumerate().flat_map(|(n, item)| strings(item, format!("{at}/{n}"))).collect()
            }
            serde_json::Value::Object(fields) => fields
                .iter()
                .flat_map(|(key, field)| {
                    strings(field, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")))
                })
                .collect(),
            _ => vec![],
        }
    }
    let mut text = status::text(&poisoned(&fixtures::status_degraded()), NOW, PLAIN);
    text += &Summary::of(&poisoned(&fixtures::encrypt_with_error()), &[]).text(NOW, PLAIN);
    text += &auth::table(&rows(Some(EVIL), poisoned(&fixtures::auth())), true, true, PLAIN);
    text += &endpoint::identities(&rows(Some(EVIL), poisoned(&fixtures::identities())), true, NOW, PLAIN);
    text += &endpoint::endpoints(&rows(Some(EVIL), poisoned(&fixtures::endpoints())), true, true, NOW, PLAIN);
    text += &endpoint::ipcache(&rows(Some(EVIL), poisoned(&fixtures::ipcache())), true, PLAIN);
    text += &policy::text(&rows(Some(EVIL), vec![poisoned(&fixtures::policy())]), true, true, PLAIN);
    for event in poisoned(&fixtures::flows()) {
        text += &flow::line(&event, Some(EVIL), true, PLAIN);
    }
    let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
    assert_eq!(bad, None);
    assert!(text.matches("\\u{1b}").count() > 100, "{text}");
}
