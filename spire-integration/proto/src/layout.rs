//! How a cluster's pods and nodes are laid out in entries, and which layouts would give a node too much.

use std::collections::BTreeSet;

use countersign_certs::{IdError, IdSubject, IdTemplate, SpiffeId, TemplateError, TrustDomain};
use countersign_wg_proto::node_id;

use crate::collision::{is_ambiguous, may_collide};
use crate::entry::{Entry, Kind, Owner};
use crate::limits::{MAX_HINT_BYTES, MAX_TTL_SECONDS, MIN_TTL_SECONDS};
use crate::node::NodeTemplate;
use crate::selector::{Missing, PodFacts, SelectorTemplate, Variable, render_all};

/// The form of [`countersign_wg_proto::node_id`], to compare templates with.
const AGENT_ID: &str = "spiffe://{trust_domain}/node/{node}";

/// The path that SPIRE keeps for its servers and agents.
const RESERVED: &str = "spiffe://{trust_domain}/spire/";

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct LayoutConfig {
    /// The trust domain of all entries.
    pub trust_domain: TrustDomain,
    /// Whose entries they are.
    pub owner: Owner,
    /// SPIFFE IDs of pods.
    pub pod_id: IdTemplate,
    /// SPIFFE IDs that stand for the nodes' SPIRE agents: the parents of pods' entries.
    pub node_parent: NodeTemplate,
    /// What tells a pod's processes from all others on its node.
    pub pod_selectors: Vec<SelectorTemplate>,
    /// What tells a node's SPIRE agent from all others. Empty where somebody else gives agents their parents'
    /// IDs (`spire-server token generate -spiffeID`, entries of one's own).
    pub node_selectors: Vec<SelectorTemplate>,
    /// What tells the Countersign agent from all other processes on its node. Empty where its entry is somebody
    /// else's.
    pub agent_selectors: Vec<SelectorTemplate>,
    /// Life of SVIDs in seconds; 0 is the server's default.
    pub x509_svid_ttl_seconds: u32,
    /// Trust domains that pods and agents federate with.
    pub federates_with: BTreeSet<TrustDomain>,
    /// Hint of pods' entries.
    pub hint: String,
}

/// Why a layout is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A user could give a pod the ID of a node, and so the keys of its pods.
    #[error("pods' IDs ({pods}) could be those of nodes ({nodes}); give one of them a path of its own")]
    Collision {
        /// The template of pods.
        pods: String,
        /// That of nodes, or of their agents.
        nodes: String,
    },
    /// A user could give a pod the ID of another namespace's.
    #[error("two gaps of {0} run into each other: put a '/' or a '_' between them")]
    Ambiguous(String),
    /// The ID is one that SPIRE keeps for itself.
    #[error("{0} is below /spire/, which SPIRE keeps for itself")]
    Reserved(String),
    /// A process of any pod on the node would get the SVID.
    #[error("the selectors of pods tell no pod from the others on its node: one needs {0}")]
    PodSelectors(&'static str),
    /// Every node would be every other, and get every key.
    #[error("no selector of nodes has {{node}}: every SPIRE agent would be every node")]
    NodeSelectors,
    /// A variable of pods where there is no pod.
    #[error("{0} is about no pod: {{node}} is the only variable it can have")]
    OnlyNode(String),
    /// The life of SVIDs is out of range.
    #[error("a life of {0} s is out of range: 0, or {MIN_TTL_SECONDS} to {MAX_TTL_SECONDS}")]
    Ttl(u32),
    /// The hint is too long.
    #[error("a hint has at most {MAX_HINT_BYTES} bytes")]
    Hint,
    /// A trust domain does not federate with itself.
    #[error("{0} does not federate with itself")]
    Federation(TrustDomain),
    /// The names of server and nodes make no SPIFFE IDs.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Why there is no entry of a pod or node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Something is not known, most often not yet.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Its facts make no SPIFFE ID.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Its node's name makes no SPIFFE ID.
    #[error("its node's name makes no SPIFFE ID: {0}")]
    Node(#[from] IdError),
}

/// A layout that gives every node the keys of its own pods.
#[derive(Clone, Debug)]
pub struct Layout {
    config: LayoutConfig,
    server: SpiffeId,
}

impl Layout {
    /// Takes a layout, unless it would give somebody more than is theirs.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn new(config: LayoutConfig) -> Result<Self, LayoutError> {
        check_ids(&config)?;
        check_pod_selectors(&config)?;
        check_node_selectors(&config)?;
        let ttl = config.x509_svid_ttl_seconds;
        if ttl != 0 && !(MIN_TTL_SECONDS..=MAX_TTL_SECONDS).contains(&ttl) {
            return Err(LayoutError::Ttl(ttl));
        }
        if config.hint.len() > MAX_HINT_BYTES {
            return Err(LayoutError::Hint);
        }
        if config.federates_with.contains(&config.trust_domain) {
            return Err(LayoutError::Federation(config.trust_domain));
        }
        let server = SpiffeId::parse(&format!("spiffe://{}/spire/server", config.trust_domain))?;
        Ok(Self { config, server })
    }

    /// Whose entries these are.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.config.owner
    }

    /// The entry of a pod with this identity, and its ID. The ID is that of the placement: it stays when the
    /// pod's labels, and with them its identity, change.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn pod(&self, identity: u32, facts: &PodFacts<'_>) -> Result<(String, Entry), Refused> {
        let PodFacts { namespace, service_account, .. } = *facts;
        let subject = IdSubject { number: identity, namespace, service_account };
        let spiffe_id = self.config.pod_id.render(&self.config.trust_domain, &subject)?;
        let entry = Entry {
            spiffe_id,
            parent_id: self.parent(facts.node)?,
            selectors: render_all(&self.config.pod_selectors, facts)?,
            x509_svid_ttl_seconds: self.config.x509_svid_ttl_seconds,
            federates_with: self.config.federates_with.clone(),
            hint: self.config.hint.clone(),
        };
        let about = [facts.node, facts.namespace, facts.pod, facts.pod_uid];
        Ok((self.config.owner.entry_id(Kind::Pod, &about), entry))
    }

    /// The entries of a node: of its Countersign agent, and of which SPIRE agent is its; each only if it is ours
    /// to write.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn node(&self, node: &str) -> Result<Vec<(String, Entry)>, Refused> {
        let facts = PodFacts::of_node(node);
        let parent = self.parent(node)?;
        let mut entries = Vec::new();
        if !self.config.node_selectors.is_empty() {
            let selectors = render_all(&self.config.node_selectors, &facts)?;
            let mut alias = self.bare(parent.clone(), self.server.clone());
            alias.selectors = selectors;
            entries.push((self.config.owner.entry_id(Kind::Node, &[node]), alias));
        }
        if !self.config.agent_selectors.is_empty() {
            let mut agent = self.bare(node_id(&self.config.trust_domain, node)?, parent);
            agent.selectors = render_all(&self.config.agent_selectors, &facts)?;
            agent.x509_svid_ttl_seconds = self.config.x509_svid_ttl_seconds;
            agent.federates_with.clone_from(&self.config.federates_with);
            entries.push((self.config.owner.entry_id(Kind::Agent, &[node]), agent));
        }
        Ok(entries)
    }

    /// The SPIFFE ID that stands for the SPIRE agent of a node.
    ///
    /// # Errors
    /// Where the node's name makes none.
    pub fn parent(&self, node: &str) -> Result<SpiffeId, IdError> {
        self.config.node_parent.render(&self.config.trust_domain, node)
    }

    fn bare(&self, spiffe_id: SpiffeId, parent_id: SpiffeId) -> Entry {
        Entry {
            spiffe_id,
            parent_id,
            selectors: BTreeSet::new(),
            x509_svid_ttl_seconds: 0,
            federates_with: BTreeSet::new(),
            hint: String::new(),
        }
    }
}

fn check_ids(config: &LayoutConfig) -> Result<(), LayoutError> {
    let pods = config.pod_id.to_string();
    let parents = config.node_parent.to_string();
    if is_ambiguous(&pods) {
        return Err(LayoutError::Ambiguous(pods));
    }
    if let Some(reserved) = [&pods, &parents].into_iter().find(|text| text.starts_with(RESERVED)) {
        return Err(LayoutError::Reserved(reserved.clone()));
    }
    for (one, other) in [(&pods, &*parents), (&pods, AGENT_ID), (&parents, AGENT_ID)] {
        if may_collide(one, other) {
            return Err(LayoutError::Collision { pods: one.clone(), nodes: other.to_owned() });
        }
    }
    Ok(())
}

/// The selectors of a pod must not be those of another pod on its node, unless both have one SPIFFE ID.
fn check_pod_selectors(config: &LayoutConfig) -> Result<(), LayoutError> {
    let has = |wanted: Variable| config.pod_selectors.iter().any(|template| template.has(wanted));
    let one_pod = has(Variable::PodUid)
        || has(Variable::SupplementalGroup)
        || (has(Variable::Namespace) && has(Variable::Pod));
    if one_pod {
        return Ok(());
    }
    let by_account = !config.pod_id.to_string().contains("{number}");
    match by_account && has(Variable::Namespace) && has(Variable::ServiceAccount) {
        true => Ok(()),
        false if by_account => Err(LayoutError::PodSelectors("{namespace} and {service_account}")),
        false => Err(LayoutError::PodSelectors("{pod_uid}, {supplemental_group}, or {namespace} and {pod}")),
    }
}

fn check_node_selectors(config: &LayoutConfig) -> Result<(), LayoutError> {
    let all = config.node_selectors.iter().chain(&config.agent_selectors);
    for template in all {
        if template.variables().any(|variable| variable != Variable::Node) {
            return Err(LayoutError::OnlyNode(template.to_string()));
        }
    }
    let distinct = config.node_selectors.iter().any(|template| template.has(Variable::Node));
    if config.node_selectors.is_empty() || distinct { Ok(()) } else { Err(LayoutError::NodeSelectors) }
}
