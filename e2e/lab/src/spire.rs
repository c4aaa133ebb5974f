//! Real SPIRE in a lab: one server, one agent a node, as they would be in a cluster.
//!
//! They live in a network namespace of their own, so that the wire between the nodes carries what the product sends
//! and nothing else; agents are reached by Unix sockets in any case.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::{IdentitySource, LabConfig};
use crate::ip::Batch;
use crate::ns::{self, Space};
use crate::paths::Paths;

/// The release that is built, tried and cached.
pub const VERSION: &str = "1.15.3";

/// Trust domain of every lab.
pub const TRUST_DOMAIN: &str = "countersign.lab";

/// The port of the server; nobody else is in its namespace.
const PORT: u16 = 8081;

/// How SPIRE is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Tuning {
    /// Entries reach agents within a tenth of a second each way.
    #[default]
    Fast,
    /// As SPIRE is without a word about it: 5 s each way.
    Default,
}

/// By which interface of SPIRE's agent the pods' SVIDs come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PodsBy {
    /// The Delegated Identity API.
    #[default]
    Delegated,
    /// The Broker API.
    Broker,
}

/// `spire-server` or `spire-agent`: from `COUNTERSIGN_SPIRE_BIN_DIR`, from where `cargo xtask peers` puts them, or
/// from the path.
///
/// # Errors
/// Where there is none, with what to do.
pub fn program(name: &str) -> Result<PathBuf> {
    let places = [
        std::env::var_os("COUNTERSIGN_SPIRE_BIN_DIR").map(PathBuf::from),
        cache().map(|cache| cache.join("peers").join(format!("spire-{VERSION}"))),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = places.into_iter().flatten().chain(std::env::split_paths(&path)).map(|dir| dir.join(name));
    all.find(|program| program.is_file()).with_context(|| {
        format!("{name} is not there: `cargo xtask peers` builds SPIRE {VERSION}, or set COUNTERSIGN_SPIRE_BIN_DIR")
    })
}

/// Where the project keeps what it builds of others.
fn cache() -> Option<PathBuf> {
    let given = std::env::var_os("COUNTERSIGN_CACHE_DIR").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("countersign"));
    let home = || std::env::var_os("HOME").map(|dir| Path::new(&dir).join(".cache/countersign"));
    given.or_else(xdg).or_else(home)
}

/// Files of a lab's SPIRE.
#[derive(Clone, Debug)]
pub struct SpirePaths {
    root: PathBuf,
    lab: Paths,
}

impl SpirePaths {
    /// Of a lab.
    #[must_use]
    pub fn new(lab: &Paths) -> Self {
        Self { root: lab.root().join("spire"), lab: lab.clone() }
    }

    /// The server's private API.
    #[must_use]
    pub fn server_socket(&self) -> PathBuf {
        self.root.join("server/api.sock")
    }

    /// While this exists, the server is left down.
    #[must_use]
    pub fn server_hold(&self) -> PathBuf {
        self.root.join("server.hold")
    }

    /// While this exists, the registrar is left down.
    #[must_use]
    pub fn registrar_hold(&self) -> PathBuf {
        self.root.join("registrar.hold")
    }

    /// What the registrar says of itself.
    #[must_use]
    pub fn registrar_status(&self) -> PathBuf {
        self.root.join("registrar.json")
    }

    pub(crate) fn server_config(&self) -> PathBuf {
        self.root.join("server.conf")
    }

    /// Everything of the agent of one node.
    #[must_use]
    pub fn agent(&self, node: &str) -> PathBuf {
        self.lab.node(node).join("spire")
    }

    /// The Workload API of a node.
    #[must_use]
    pub fn workload_socket(&self, node: &str) -> PathBuf {
        self.agent(node).join("public/api.sock")
    }

    /// The admin socket of a node: the Delegated Identity API.
    #[must_use]
    pub fn admin_socket(&self, node: &str) -> PathBuf {
        self.agent(node).join("admin/admin.sock")
    }

    /// The Broker API of a node.
    #[must_use]
    pub fn broker_socket(&self, node: &str) -> PathBuf {
        self.agent(node).join("broker/broker.sock")
    }

    /// While this exists, the node's SPIRE agent is left down.
    #[must_use]
    pub fn agent_hold(&self, node: &str) -> PathBuf {
        self.agent(node).join("hold")
    }

    pub(crate) fn agent_config(&self, node: &str) -> PathBuf {
        self.agent(node).join("agent.conf")
    }

    pub(crate) fn agent_data(&self, node: &str) -> PathBuf {
        self.agent(node).join("data")
    }

    fn trust_bundle(&self, node: &str) -> PathBuf {
        self.agent(node).join("bundle.pem")
    }
}

/// The parent of all entries of a node's pods: an alias of its SPIRE agent.
#[must_use]
pub fn parent_id(node: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/spire-node/{node}")
}

/// The network namespace SPIRE lives in.
#[must_use]
pub fn netns(config: &LabConfig) -> String {
    format!("{}spire", config.name.netns_prefix())
}

/// Makes the namespace, the directories and the configuration files.
///
/// # Errors
/// Where SPIRE's programs are missing, and those of writing.
pub(crate) fn prepare(config: &LabConfig) -> Result<()> {
    let IdentitySource::Spire { tuning, pods } = &config.identity_source else { return Ok(()) };
    program("spire-server")?;
    program("spire-agent")?;
    let netns = netns(config);
    ns::create_net(&netns)?;
    Batch::default().add("link set lo up").run_in(&netns)?;
    let paths = SpirePaths::new(&config.paths());
    private_directory(&paths.root.join("server"))?;
    fs::write(paths.server_config(), server_config(&paths, *tuning))?;
    for (_, node) in config.node_names() {
        private_directory(&paths.agent_data(&node))?;
        for sockets in ["public", "admin", "broker"] {
            private_directory(&paths.agent(&node).join(sockets))?;
        }
        fs::write(paths.agent_config(&node), agent_config(&paths, &node, *tuning, *pods))?;
    }
    Ok(())
}

fn private_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make {}", path.display()))
}

fn server_config(paths: &SpirePaths, tuning: Tuning) -> String {
    let data = paths.root.join("server");
    let data = data.display();
    let fast = match tuning {
        Tuning::Default => "",
        Tuning::Fast => {
            "  experimental {\n    events_based_cache = true\n    cache_reload_interval = \"100ms\"\n  }\n"
        }
    };
    format!(
        r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{PORT}"
  socket_path = "{socket}"
  trust_domain = "{TRUST_DOMAIN}"
  data_dir = "{data}"
  log_level = "INFO"
  ca_ttl = "24h"
  ca_subject {{
    organization = ["Countersign lab"]
  }}
{fast}}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{data}/datastore.sqlite3"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      keys_path = "{data}/keys.json"
    }}
  }}
}}
"#,
        socket = paths.server_socket().display(),
    )
}

fn agent_config(paths: &SpirePaths, node: &str, tuning: Tuning, pods: PodsBy) -> String {
    let fast = match tuning {
        Tuning::Default => "",
        Tuning::Fast => "    sync_interval = \"100ms\"\n",
    };
    let own = format!("spiffe://{TRUST_DOMAIN}/node/{node}");
    // Nobody is served by an interface that nobody is to use.
    let (delegates, broker) = match pods {
        PodsBy::Delegated => (format!("\"{own}\""), String::new()),
        PodsBy::Broker => (String::new(), broker_config(paths, node, &own)),
    };
    format!(
        r#"agent {{
  data_dir = "{data}"
  server_address = "127.0.0.1"
  server_port = "{PORT}"
  trust_domain = "{TRUST_DOMAIN}"
  trust_bundle_path = "{bundle}"
  socket_path = "{workload}"
  admin_socket_path = "{admin}"
  authorized_delegates = [{delegates}]
  log_level = "INFO"
  experimental {{
{fast}{broker}  }}
}}
plugins {{
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{data}"
    }}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{}}
  }}
}}
"#,
        data = paths.agent_data(node).display(),
        bundle = paths.trust_bundle(node).display(),
        workload = paths.workload_socket(node).display(),
        admin = paths.admin_socket(node).display(),
    )
}

/// The agent is told of processes by our own there, and attests them itself.
fn broker_config(paths: &SpirePaths, node: &str, id: &str) -> String {
    let socket = paths.broker_socket(node);
    format!(
        r#"    broker {{
      socket_path = "{socket}"
      brokers = [
        {{
          id = "{id}"
          allowed_reference_types = [
            {{
              type_url = "type.googleapis.com/spiffe.broker.WorkloadPIDReference"
            }}
          ]
        }}
      ]
    }}
"#,
        socket = socket.display(),
    )
}

/// Runs the server's own command line against the lab's server and returns what it prints.
///
/// # Errors
/// What it says on standard error.
pub fn server_command(config: &LabConfig, arguments: &[&str]) -> Result<String> {
    let program = program("spire-server")?;
    let socket = SpirePaths::new(&config.paths()).server_socket();
    let output = Space::net(&netns(config))?.run(|| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("-socketPath").arg(&socket).current_dir("/");
        command.output().with_context(|| format!("run {}", program.display()))
    })?;
    if !output.status.success() {
        // Some commands complain on standard output.
        let said = [output.stderr, output.stdout].concat();
        bail!("spire-server {}: {}", arguments.join(" "), String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What an agent needs before its first start: the authorities to believe, and a token to be believed by. Returns
/// the token; none where the agent has attested itself before.
pub(crate) fn introduce_agent(config: &LabConfig, node: &str) -> Result<Option<String>> {
    let paths = SpirePaths::new(&config.paths());
    if paths.agent_data(node).join("agent-data.json").exists() {
        return Ok(None);
    }
    let bundle = server_command(config, &["bundle", "show", "-format", "pem"])?;
    crate::config::write_atomically(&paths.trust_bundle(node), bundle.as_bytes())?;
    let parent = parent_id(node);
    let answer = server_command(config, &["token", "generate", "-spiffeID", &parent, "-output", "json"])?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("the answer of token generate")?;
    let token = answer["value"].as_str().context("token generate answers without a token")?;
    Ok(Some(token.to_owned()))
}

/// One of SPIRE's processes in a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Its server.
    Server,
    /// Its agent on a node.
    Agent(&'a str),
    /// The registrar of its entries.
    Registrar,
}

/// SPIRE of a lab that is up.
#[derive(Clone, Debug)]
pub struct Spire {
    config: LabConfig,
}

impl Spire {
    /// Of a lab that runs it.
    ///
    /// # Errors
    /// Where the lab's SVIDs come from elsewhere.
    pub fn of(config: &LabConfig) -> Result<Self> {
        if !matches!(config.identity_source, IdentitySource::Spire { .. }) {
            bail!("lab {} runs no SPIRE: `lab up --spire` makes one that does", config.name);
        }
        Ok(Self { config: config.clone() })
    }

    /// Its files.
    #[must_use]
    pub fn paths(&self) -> SpirePaths {
        SpirePaths::new(&self.config.paths())
    }

    /// See [`server_command`].
    ///
    /// # Errors
    /// What it says.
    pub fn server(&self, arguments: &[&str]) -> Result<String> {
        server_command(&self.config, arguments)
    }

    /// Ends one of its processes, and keeps it down.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn stop(&self, part: Part<'_>) -> Result<()> {
        fs::write(self.hold(part), "").context("hold it")?;
        let gone = crate::process::wait_until(Duration::from_secs(10), || {
            let Some(alive) = self.process(part) else { return true };
            let _ = alive.signal(nix::sys::signal::Signal::SIGKILL);
            false
        });
        if gone { Ok(()) } else { bail!("it does not end") }
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// Those of removing the hold.
    pub fn start(&self, part: Part<'_>) -> Result<()> {
        match fs::remove_file(self.hold(part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The process itself, if it runs.
    #[must_use]
    pub fn process(&self, part: Part<'_>) -> Option<crate::process::Record> {
        let name = match part {
            Part::Server => "spire-server.json".to_owned(),
            Part::Agent(node) => format!("spire-agent-{node}.json"),
            Part::Registrar => "registrar.json".to_owned(),
        };
        crate::process::Record::load_alive(&self.config.paths().processes().join(name))
    }

    fn hold(&self, part: Part<'_>) -> PathBuf {
        match part {
            Part::Server => self.paths().server_hold(),
            Part::Agent(node) => self.paths().agent_hold(node),
            Part::Registrar => self.paths().registrar_hold(),
        }
    }
}
