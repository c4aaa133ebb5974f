//! Templates of SPIFFE IDs: what is taken, and that no two identities can have one ID.

use countersign_certs::{IdError, IdSubject, IdTemplate, SpiffeId, TemplateError, TrustDomain};
use proptest::prelude::*;

fn td() -> TrustDomain {
    TrustDomain::parse("countersign.lab").unwrap()
}

#[test]
fn templates_are_filled() {
    let subject = IdSubject { number: 4711, namespace: "shop", service_account: "web.v2" };
    let table = [
        ("spiffe://{trust_domain}/identity/{number}", "/identity/4711"),
        ("/identity/{number}", "/identity/4711"),
        ("/ns/{namespace}/sa/{service_account}", "/ns/shop/sa/web.v2"),
        ("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}", "/ns/shop/sa/web.v2"),
        ("/{number}.{namespace}/x", "/4711.shop/x"),
        ("/{namespace}.{service_account}", "/shop.web.v2"),
        ("/{service_account}.{namespace}", "/web.v2.shop"),
        ("/{namespace}_{service_account}_{number}", "/shop_web.v2_4711"),
        ("/k8s/{namespace}/{namespace}/{service_account}", "/k8s/shop/shop/web.v2"),
        ("/v{number}", "/v4711"),
        ("/{number}", "/4711"),
    ];
    for (text, path) in table {
        let template = IdTemplate::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let id = template.render(&td(), &subject).unwrap();
        assert_eq!(id.as_str(), format!("spiffe://countersign.lab{path}"));
        let written = template.to_string();
        assert!(written.starts_with("spiffe://{trust_domain}/") && written.ends_with(text), "{written}");
        assert_eq!(written.parse::<IdTemplate>().unwrap(), template);
        assert_eq!(
            template.needs_only_number(),
            !text.contains("names") && !text.contains("service"),
            "{text}"
        );
    }
    assert_eq!(IdTemplate::default(), IdTemplate::parse(table[0].0).unwrap());
    assert_eq!(IdTemplate::service_account(), IdTemplate::parse(table[2].0).unwrap());
}

#[test]
fn templates_that_cannot_work_are_refused_with_what_to_do() {
    use TemplateError as E;
    let gap = |name: &str| E::Gap(name.to_owned());
    let brace = |near: &str| E::Brace(near.to_owned());
    let table = [
        ("", E::Head),
        ("identity/{number}", E::Head),
        ("{number}", E::Head),
        ("spiffe://{trust_domain}", E::Head),
        ("spiffe://{trust_domain}{number}", E::Head),
        ("spiffe://countersign.lab/{number}", E::Head),
        ("SPIFFE://{trust_domain}/{number}", E::Head),
        ("https://{trust_domain}/{number}", E::Head),
        (" /identity/{number}", E::Head),
        ("/fixed", E::NotDistinct),
        ("/ns/{namespace}", E::NotDistinct),
        ("/sa/{service_account}", E::NotDistinct),
        ("/{pod}", gap("pod")),
        ("/{}", gap("")),
        ("/{Number}", gap("Number")),
        ("/{ number }", gap(" number ")),
        ("/{serviceaccount}", gap("serviceaccount")),
        ("/{trust_domain}/{number}", gap("trust_domain")),
        ("/{{number}}", gap("{number")),
        ("/{number", brace("number")),
        ("/number}", brace("/number}")),
        ("/{number}}", brace("}")),
        ("/{number}/", E::Id(IdError::EmptySegment)),
        ("//{number}", E::Id(IdError::EmptySegment)),
        ("/a//{number}", E::Id(IdError::EmptySegment)),
        ("/../{number}", E::Id(IdError::DotSegment)),
        ("/a b/{number}", E::Id(IdError::PathCharacter)),
        ("/%2e/{number}", E::Id(IdError::PathCharacter)),
        ("/{number}?a", E::Id(IdError::PathCharacter)),
        ("/{number}#a", E::Id(IdError::PathCharacter)),
        ("/\u{e9}/{number}", E::Id(IdError::PathCharacter)),
        ("/{namespace}{service_account}", E::Ambiguous("namespace", "service_account")),
        ("/{namespace}-{service_account}", E::Ambiguous("namespace", "service_account")),
        ("/{namespace}x{service_account}", E::Ambiguous("namespace", "service_account")),
        ("/{number}{namespace}", E::Ambiguous("number", "namespace")),
        ("/{number}1{namespace}", E::Ambiguous("number", "namespace")),
        ("/{namespace}.{service_account}-{number}", E::Ambiguous("namespace", "service_account")),
    ];
    for (text, expected) in table {
        assert_eq!(IdTemplate::parse(text), Err(expected), "{text:?}");
    }
    let long = format!("/{}/{{number}}", "a".repeat(2048));
    assert_eq!(IdTemplate::parse(&long), Err(E::Id(IdError::TooLong)));
}

#[test]
fn errors_of_templates_name_the_gap() {
    let rows = [
        ("/{pod}", "unknown gap {pod}: there are {number}, {namespace} and {service_account}"),
        ("identity", "a template begins with spiffe://{trust_domain}/ or with /"),
        ("/x", "a template needs {number}, or both {namespace} and {service_account}"),
        (
            "/{namespace}-{service_account}",
            "between {namespace} and {service_account} there must be something that cannot be part of both, such as '/' or '_'",
        ),
        ("/{number", "a brace without its other half near \"number\""),
        (
            "/a b/{number}",
            "the filled template is no SPIFFE ID: a path segment may hold only letters, digits, '.', '-' and '_'",
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(IdTemplate::parse(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_gap_cannot_smuggle_a_path_in_nor_stay_empty() {
    let smuggled =
        [("a/b", "x"), ("..", "x"), ("a", "%2f"), ("a", "x\0y"), ("a", "a/../b"), ("a.b", "x"), ("A", "x")];
    for (namespace, service_account) in smuggled {
        let subject = IdSubject { number: 1, namespace, service_account };
        let rendered = IdTemplate::service_account().render(&td(), &subject);
        assert!(matches!(rendered, Err(TemplateError::Id(_))), "{subject:?}: {rendered:?}");
    }
    let prefixed = IdTemplate::parse("/ns-{namespace}/sa-{service_account}").unwrap();
    for (namespace, service_account, missing) in [("", "x", "namespace"), ("a", "", "service_account")] {
        let subject = IdSubject { number: 1, namespace, service_account };
        assert_eq!(prefixed.render(&td(), &subject), Err(TemplateError::NoValue(missing)));
    }
    let dots = IdSubject { number: 1, namespace: "a", service_account: ".." };
    let refused = IdTemplate::service_account().render(&td(), &dots);
    assert_eq!(refused, Err(TemplateError::Id(IdError::DotSegment)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever template is taken: identities that differ in what it speaks of never share an ID.
    #[test]
    fn no_two_identities_share_an_id(
        pieces in prop::collection::vec(prop_oneof![
            3 => prop::sample::select(vec!["{number}", "{namespace}", "{service_account}"]),
            2 => prop::sample::select(vec!["/", "-", ".", "_", "a", "1", "X"]),
        ], 1..6),
        one in (0..30_u32, "[a1-]{1,3}", "[a1.-]{1,3}"), other in (0..30_u32, "[a1-]{1,3}", "[a1.-]{1,3}"),
    ) {
        let text = format!("/{}", pieces.concat());
        let Ok(template) = IdTemplate::parse(&text) else { return Ok(()) };
        let subject = |(number, namespace, service_account): &(u32, String, String)| {
            let subject = IdSubject { number: *number, namespace, service_account };
            template.render(&td(), &subject).ok()
        };
        let (Some(first), Some(second)) = (subject(&one), subject(&other)) else { return Ok(()) };
        let speaks = |gap: &str| pieces.contains(&gap);
        let differ = speaks("{number}") && one.0 != other.0
            || speaks("{namespace}") && one.1 != other.1
            || speaks("{service_account}") && one.2 != other.2;
        prop_assert_eq!(first != second, differ, "{}: {:?} {:?}", text, one, other);
    }

    #[test]
    fn any_text_as_a_template_is_no_trouble(text in "[/{}a-z_.A1 %-]{0,60}", noise in any::<String>()) {
        for text in [text.as_str(), noise.as_str(), &format!("/{noise}{{number}}")] {
            if let Ok(template) = IdTemplate::parse(text) {
                let subject = IdSubject { number: 7, namespace: "n", service_account: "s" };
                let id = template.render(&td(), &subject).unwrap();
                prop_assert!(SpiffeId::parse(id.as_str()).is_ok());
                prop_assert_eq!(template.to_string().parse::<IdTemplate>(), Ok(template));
            }
        }
    }
}
