//! Entries as SPIRE's messages have them.

use std::collections::BTreeSet;

use countersign_certs::{SpiffeId, TrustDomain};
use countersign_spire_proto::{Entry, Existing, Extras, Selector};

use crate::spire::api::types;

/// The message of an entry, whole.
pub(crate) fn to_message(id: &str, entry: &Entry) -> types::Entry {
    let selector = |selector: &Selector| types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    };
    types::Entry {
        id: id.to_owned(),
        spiffe_id: Some(id_message(&entry.spiffe_id)),
        parent_id: Some(id_message(&entry.parent_id)),
        selectors: entry.selectors.iter().map(selector).collect(),
        x509_svid_ttl: i32::try_from(entry.x509_svid_ttl_seconds).unwrap_or(i32::MAX),
        federates_with: entry.federates_with.iter().map(TrustDomain::to_string).collect(),
        hint: entry.hint.clone(),
        ..types::Entry::default()
    }
}

/// What a message says. One that we could not have written (an ID of another form, a selector that is none) has
/// no entry in it.
pub(crate) fn from_message(message: types::Entry) -> Existing {
    let extras = extras(&message);
    Existing { entry: entry(&message), extras, id: message.id }
}

fn id_message(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

fn id(message: Option<&types::Spiffeid>) -> Option<SpiffeId> {
    let types::Spiffeid { trust_domain, path } = message?;
    SpiffeId::parse(&format!("spiffe://{trust_domain}{path}")).ok()
}

fn entry(message: &types::Entry) -> Option<Entry> {
    let selectors = message.selectors.iter().map(|s| Selector::new(&s.r#type, &s.value));
    let selectors: BTreeSet<Selector> = selectors.collect::<Result<_, _>>().ok()?;
    let federates_with = message.federates_with.iter().map(|domain| TrustDomain::parse(domain));
    Some(Entry {
        spiffe_id: id(message.spiffe_id.as_ref())?,
        parent_id: id(message.parent_id.as_ref())?,
        selectors,
        x509_svid_ttl_seconds: u32::try_from(message.x509_svid_ttl).ok()?,
        federates_with: federates_with.collect::<Result<_, _>>().ok()?,
        hint: message.hint.clone(),
    })
}

fn extras(message: &types::Entry) -> Extras {
    let attributes = message.additional_attributes.unwrap_or_default();
    let attributed = attributes != types::entry::AdditionalAttributes::default();
    if message.admin || message.downstream || message.store_svid {
        return Extras::Withheld;
    }
    let more =
        message.expires_at != 0 || message.jwt_svid_ttl != 0 || !message.dns_names.is_empty() || attributed;
    if more { Extras::Harmless } else { Extras::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            spiffe_id: SpiffeId::parse("spiffe://example.org/identity/17947").unwrap(),
            parent_id: SpiffeId::parse("spiffe://example.org/spire-node/node1").unwrap(),
            selectors: ["k8s:pod-uid:u-1", "k8s:pod-label:app:web"].map(|s| s.parse().unwrap()).into(),
            x509_svid_ttl_seconds: 600,
            federates_with: [TrustDomain::parse("partner.example").unwrap()].into(),
            hint: "h".to_owned(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let message = to_message("countersign.a.pod.1", &entry());
        assert_eq!((message.admin, message.downstream, message.expires_at), (false, false, 0));
        let read = from_message(message);
        let expected =
            Existing { id: "countersign.a.pod.1".to_owned(), entry: Some(entry()), extras: Extras::None };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_more_than_ours_is_seen() {
        let with = |change: fn(&mut types::Entry)| {
            let mut message = to_message("x", &entry());
            change(&mut message);
            from_message(message).extras
        };
        assert_eq!(with(|m| m.admin = true), Extras::Withheld);
        assert_eq!(with(|m| m.downstream = true), Extras::Withheld);
        assert_eq!(with(|m| m.store_svid = true), Extras::Withheld);
        assert_eq!(with(|m| m.expires_at = 1), Extras::Harmless);
        assert_eq!(with(|m| m.jwt_svid_ttl = 1), Extras::Harmless);
        assert_eq!(with(|m| m.dns_names.push("a".to_owned())), Extras::Harmless);
        assert_eq!(with(|m| m.revision_number = 7), Extras::None);
        assert_eq!(with(|m| m.created_at = 7), Extras::None);
        let prefetch =
            types::entry::AdditionalAttributes { disable_x509_svid_prefetch: true, ..Default::default() };
        let mut message = to_message("x", &entry());
        message.additional_attributes = Some(prefetch);
        assert_eq!(from_message(message).extras, Extras::Harmless);
    }

    #[test]
    fn what_cannot_be_ours_has_no_entry() {
        let with = |change: fn(&mut types::Entry)| {
            let mut message = to_message("x", &entry());
            change(&mut message);
            from_message(message).entry
        };
        assert_eq!(with(|m| m.spiffe_id = None), None);
        assert_eq!(with(|m| m.parent_id.as_mut().unwrap().path = "/a//b".to_owned()), None);
        assert_eq!(with(|m| m.selectors[0].value.clear()), None);
        assert_eq!(with(|m| m.x509_svid_ttl = -1), None);
        assert_eq!(with(|m| m.federates_with.push("A".to_owned())), None);
    }
}
