//! Lines: whatever the bytes and however they are cut, the reader neither panics nor holds more than its bound.

use countersign_agent_api::frame::{Frame, FrameError, LineReader, encode};
use countersign_agent_api::limits::MAX_LINE;
use countersign_agent_api::{FlowFilter, ObserveRequest, Request, Status};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Lines read from `bytes`, handed over in pieces of these lengths, and how it ended.
fn read(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Option<FrameError>) {
    run(async {
        let (mut write, read) = tokio::io::duplex(64);
        let mut lines = LineReader::new(read);
        let writing = async {
            let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
            while !rest.is_empty() {
                let take = pieces.next().copied().unwrap_or(1).clamp(1, rest.len());
                // The reader gives up first where a line is too long.
                if write.write_all(&rest[..take]).await.is_err() {
                    break;
                }
                rest = &rest[take..];
            }
            drop(write);
        };
        let reading = async {
            let mut all = Vec::new();
            let end = loop {
                match lines.next_line().await {
                    Ok(Some(line)) => all.push(line),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            drop(lines);
            (all, end)
        };
        tokio::join!(writing, reading).1
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn lines_do_not_depend_on_how_the_stream_is_cut(
        bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..2000),
        pieces in prop::collection::vec(1..200_usize, 1..20),
    ) {
        let (lines, end) = read(&bytes, &pieces);
        let mut expected: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
        let rest = expected.pop().unwrap_or_default();
        prop_assert_eq!(lines, expected);
        prop_assert_eq!(matches!(end, Some(FrameError::Truncated)), !rest.is_empty());
        prop_assert_eq!(end.is_none(), rest.is_empty());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = serde_json::from_slice::<Request>(&bytes).map(|request| request.validate());
        let _ = serde_json::from_slice::<Frame<Status>>(&bytes);
    }

    #[test]
    fn mutated_requests_are_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut line = encode(&observe()).expect("a line");
        let at = at.index(line.len());
        line[at] = byte;
        let _ = serde_json::from_slice::<Request>(&line).map(|request| request.validate());
    }
}

fn observe() -> Request {
    let filter = FlowFilter {
        namespace: vec!["default".into()],
        port: vec![80],
        ip: vec!["10.0.0.0/8".parse().expect("a prefix")],
        direction: Some("ingress".into()),
        ..FlowFilter::default()
    };
    Request::Observe(ObserveRequest { follow: true, last: 20, filter })
}

#[test]
fn the_longest_line_and_one_more() {
    let exactly = [vec![b'x'; MAX_LINE - 1], b"\nnext\n".to_vec()].concat();
    let (lines, end) = read(&exactly, &[4096]);
    assert_eq!((lines.len(), lines[0].len(), end.is_none()), (2, MAX_LINE - 1, true));
    let over = [vec![b'x'; MAX_LINE], b"\nnext\n".to_vec()].concat();
    let (lines, end) = read(&over, &[4096]);
    assert!(lines.is_empty() && matches!(end, Some(FrameError::TooLong)));
}

#[test]
fn what_is_written_can_be_read() {
    assert!(matches!(encode(&"x".repeat(MAX_LINE - 3)), Ok(line) if line.len() == MAX_LINE));
    assert!(matches!(encode(&"x".repeat(MAX_LINE - 2)), Err(FrameError::TooLong)));
}

#[test]
fn requests_on_the_wire() {
    let table = [
        (Request::Status, r#"{"request":"status"}"#),
        (Request::AuthFlush, r#"{"request":"auth_flush"}"#),
        (
            observe(),
            concat!(
                r#"{"request":"observe","follow":true,"last":20,"filter":{"namespace":["default"],"port":[80],"#,
                r#""ip":["10.0.0.0/8"],"direction":"ingress"}}"#
            ),
        ),
    ];
    for (request, text) in table {
        assert_eq!(serde_json::to_string(&request).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<Request>(text).expect("a request"), request);
    }
}

#[test]
fn a_request_that_is_not_understood_in_full_is_refused() {
    for text in [
        r#"{"request":"observe","folow":true}"#,
        r#"{"request":"observe","filter":{"namespaces":["a"]}}"#,
        r#"{"request":"no_such"}"#,
        r#"{"request":"endpoint_add","namespace":"a"}"#,
        "{}",
        "[]",
        "",
    ] {
        assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
    }
}

#[test]
fn an_answer_with_more_or_less_than_expected_is_read() {
    let status: Status = serde_json::from_str(r#"{"node":"n1","invented":[1,2,3]}"#).expect("a status");
    assert_eq!(status, Status { node: "n1".into(), ..Status::default() });
}

#[test]
fn out_of_bounds_requests_are_refused_with_their_field() {
    let spec = |edit: fn(&mut countersign_agent_api::EndpointSpec)| {
        let mut spec = countersign_agent_api::EndpointSpec {
            namespace: "default".into(),
            name: "web-0.x".into(),
            uid: "u".into(),
            interface: "lxc01234567".into(),
            mac: "aa:bb:cc:dd:ee:0F".into(),
            ips: vec!["10.0.1.5".parse().expect("v4"), "fd00::5".parse().expect("v6")],
            netns: Some(4_026_531_840),
        };
        edit(&mut spec);
        Request::EndpointAdd(spec)
    };
    assert_eq!(spec(|_| ()).validate(), Ok(()));
    let long = |n| Request::Observe(ObserveRequest { last: n, ..ObserveRequest::default() });
    let filter = FlowFilter { port: vec![1; 65], ..FlowFilter::default() };
    let table = [
        ("last", long(u32::MAX)),
        ("filter", Request::Observe(ObserveRequest { filter, ..ObserveRequest::default() })),
        ("namespace", spec(|s| s.namespace = String::new())),
        ("namespace", spec(|s| s.namespace = "../x".into())),
        ("name", spec(|s| s.name = "a\u{1b}[2J".into())),
        ("name", spec(|s| s.name = "a".repeat(254))),
        ("interface", spec(|s| s.interface = "a/b".into())),
        ("interface", spec(|s| s.interface = "..".into())),
        ("interface", spec(|s| s.interface = "abcdefghijklmnop".into())),
        ("mac", spec(|s| s.mac = "aa:bb:cc:dd:ee".into())),
        ("mac", spec(|s| s.mac = "aa:bb:cc:dd:ee:ff:00".into())),
        ("mac", spec(|s| s.mac = "+a:bb:cc:dd:ee:ff".into())),
        ("ips", spec(|s| s.ips.clear())),
        ("ips", spec(|s| s.ips.push("10.0.1.6".parse().expect("v4")))),
    ];
    for (field, request) in table {
        let error = request.validate().expect_err(field);
        assert!(error.message.starts_with(field), "{field}: {error}");
    }
}
