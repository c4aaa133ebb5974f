//! Manifests for tests and benchmarks, as text.

use std::fmt::Write as _;

/// A pod of namespace `default`. It runs nothing of its own unless told to: probes work in its namespace.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    node: String,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
    command: Vec<String>,
}

impl Pod {
    /// A pod called `name` on `node`, with the label `app: <app>`.
    #[must_use]
    pub fn new(name: &str, node: &str, app: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: node.to_owned(),
            labels: vec![("app".to_owned(), app.to_owned())],
            annotations: Vec::new(),
            command: Vec::new(),
        }
    }

    /// With one more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Without an entry in the registry, and so without an SVID.
    #[must_use]
    pub fn unregistered(self) -> Self {
        self.annotation("countersign.dev/svid", "none")
    }

    /// Running `command` in its namespace.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The manifest.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text =
            format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: default\n", self.name);
        map(&mut text, "labels", &self.labels);
        map(&mut text, "annotations", &self.annotations);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "spec:\n  nodeName: {}\n  containers:\n  - name: main\n    image: host\n",
            self.node
        );
        if !self.command.is_empty() {
            let words: Vec<String> = self.command.iter().map(|word| format!("{word:?}")).collect();
            let _ = writeln!(text, "    command: [{}]", words.join(", "));
        }
        text
    }
}

fn map(text: &mut String, name: &str, entries: &[(String, String)]) {
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(text, "  {name}:");
    for (key, value) in entries {
        let _ = writeln!(text, "    {key}: {value:?}");
    }
}

/// One rule of a policy: peers by their `app`, ports, and whether they must have proved themselves.
#[derive(Clone, Debug)]
pub struct Rule<'a> {
    /// The peers' `app`.
    pub peer: &'a str,
    /// `TCP/80` and the like; none is every port.
    pub ports: &'a [&'a str],
    /// `authentication.mode: required`.
    pub required: bool,
}

/// A CiliumNetworkPolicy for the pods with `app: <app>`.
#[must_use]
pub fn policy(name: &str, app: &str, ingress: &[Rule<'_>], egress: &[Rule<'_>]) -> String {
    let mut text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {name}\n  namespace: default\n\
         spec:\n  endpointSelector:\n    matchLabels:\n      app: {app}\n"
    );
    rules(&mut text, "ingress", "fromEndpoints", ingress);
    rules(&mut text, "egress", "toEndpoints", egress);
    text
}

fn rules(text: &mut String, direction: &str, peers: &str, rules: &[Rule<'_>]) {
    if rules.is_empty() {
        return;
    }
    let _ = writeln!(text, "  {direction}:");
    for rule in rules {
        let _ = writeln!(text, "  - {peers}:\n    - matchLabels:\n        app: {}", rule.peer);
        if !rule.ports.is_empty() {
            let _ = writeln!(text, "    toPorts:\n    - ports:");
        }
        for (protocol, port) in rule.ports.iter().filter_map(|port| port.split_once('/')) {
            let _ = writeln!(text, "      - port: {port:?}\n        protocol: {protocol}");
        }
        if rule.required {
            let _ = writeln!(text, "    authentication:\n      mode: required");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_what_was_asked_for() {
        let pod = Pod::new("a", "node1", "client")
            .label("pair", "1")
            .annotation("x/y", "no")
            .command(&["sleep", "9"]);
        assert_eq!(
            pod.yaml(),
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: default\n  labels:\n    app: \"client\"\n    \
             pair: \"1\"\n  annotations:\n    x/y: \"no\"\nspec:\n  nodeName: node1\n  containers:\n  - name: main\n    \
             image: host\n    command: [\"sleep\", \"9\"]\n"
        );
    }

    #[test]
    fn a_policy_has_its_rules() {
        let required = Rule { peer: "client", ports: &["TCP/80", "UDP/53"], required: true };
        let open = Rule { peer: "db", ports: &[], required: false };
        let text = policy("web", "server", &[required], &[open]);
        let rules = text.split_once("app: server\n").unwrap().1;
        assert_eq!(
            rules,
            "  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        app: client\n    toPorts:\n    - ports:\n      \
             - port: \"80\"\n        protocol: TCP\n      - port: \"53\"\n        protocol: UDP\n    authentication:\n      \
             mode: required\n  egress:\n  - toEndpoints:\n    - matchLabels:\n        app: db\n"
        );
    }
}
