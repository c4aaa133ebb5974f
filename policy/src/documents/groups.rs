//! CiliumCIDRGroup: address ranges under a name.

use super::peers;
use crate::fields::{Object, Result};
use crate::labels::{Labels, Source};
use crate::model::CidrGroup;

/// Reads labels and `spec.externalCIDRs`.
pub(super) fn group(mut root: Object<'_>) -> Result<CidrGroup> {
    let mut meta = root.required("metadata")?.object()?;
    let mut labels = Labels::new();
    for (key, value) in meta.get("labels").map_or(Ok(Default::default()), |field| field.string_map())? {
        labels.insert(Source::K8s, &key, &value);
    }
    let mut spec = root.required("spec")?.object()?;
    root.finish(&[])?;
    let listed = spec.required("externalCIDRs")?;
    spec.finish(&[])?;
    let mut nets = Vec::new();
    for item in listed.items()? {
        nets.push(peers::usable(&item, item.parsed("a range of addresses, as 10.0.0.0/8")?)?);
    }
    nets.sort();
    nets.dedup();
    Ok(CidrGroup { labels, nets })
}
