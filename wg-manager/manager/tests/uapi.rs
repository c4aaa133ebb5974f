//! The client of the device's socket, against devices that misbehave.

use std::time::{Duration, Instant};

use countersign_wg_manager::{Uapi, UapiError};
use countersign_wg_proto::uapi::UapiError as Protocol;
use countersign_wg_proto::uapi::{Request, encode_get_reply, parse_request};
use countersign_wg_proto::{Device, Observed, Op, Peer, PrivateKey, PublicKey};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const DEVICE: &str = "cs_wg0";

/// A device that answers each request with `reply`, in pieces of `piece` bytes, and then hangs up.
fn device(
    directory: &tempfile::TempDir,
    reply: Vec<u8>,
    piece: usize,
) -> tokio::task::JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(directory.path().join(format!("{DEVICE}.sock"))).unwrap();
    tokio::spawn(async move {
        let mut requests = Vec::new();
        while let Ok(Ok((mut stream, _))) =
            tokio::time::timeout(Duration::from_millis(200), listener.accept()).await
        {
            requests.push(read_request(&mut stream).await);
            for part in reply.chunks(piece.max(1)) {
                if stream.write_all(part).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        requests
    })
}

async fn read_request(stream: &mut UnixStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\n\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
    String::from_utf8(request).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn get(reply: &[u8], piece: usize) -> Result<Observed, UapiError> {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let server = device(&directory, reply.to_vec(), piece);
        let result = Uapi::new(directory.path(), DEVICE).get().await;
        server.abort();
        result
    })
}

fn observed(peers: u16) -> Observed {
    let peer = |n: u16| {
        let mut bytes = [1; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        (PublicKey::from_bytes(bytes), Peer { keepalive: n, ..Peer::default() })
    };
    let private_key = Some(PrivateKey::from_bytes([1; 32]));
    let device = Device { private_key, listen_port: 1, peers: (0..peers).map(peer).collect() };
    let stats = device.peers.keys().map(|key| (*key, Default::default())).collect();
    Observed { device, fwmark: 0, stats }
}

#[test]
fn a_reply_in_any_pieces_is_read() {
    for (peers, pieces) in [(1, vec![1, 2, 3, 7, 1000]), (5000, vec![1009, 1 << 20])] {
        let expected = observed(peers);
        let reply = encode_get_reply(&expected);
        for piece in pieces {
            assert_eq!(get(reply.as_bytes(), piece).unwrap(), expected);
        }
    }
}

#[test]
fn no_device_a_broken_one_and_an_error_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = runtime().block_on(Uapi::new(directory.path(), DEVICE).get()).unwrap_err();
    assert!(matches!(nobody, UapiError::Connect { .. }));
    assert!(matches!(get(b"", 1), Err(UapiError::Protocol(Protocol::Incomplete))));
    assert!(matches!(get(b"listen_port=1\nerrno=0\n", 9), Err(UapiError::Protocol(Protocol::Incomplete))));
    assert!(matches!(get(b"errno=5\n\n", 9), Err(UapiError::Protocol(Protocol::Errno(5)))));
    assert!(matches!(get(b"\xff\n\n", 9), Err(UapiError::Protocol(_))));
}

#[test]
fn an_endless_reply_is_cut_off() {
    let endless = "listen_port=1\n".repeat(2_000_000);
    let began = Instant::now();
    assert!(matches!(get(endless.as_bytes(), 1 << 20), Err(UapiError::Protocol(Protocol::TooLarge(_)))));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_silent_device_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let error = runtime().block_on(async {
        let _silent = UnixListener::bind(directory.path().join(format!("{DEVICE}.sock"))).unwrap();
        Uapi::new(directory.path(), DEVICE).get().await.unwrap_err()
    });
    assert!(matches!(error, UapiError::Timeout));
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn many_operations_go_in_several_requests_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let ops: Vec<Op> = observed(600).device.peers.into_keys().map(|key| Op::RemovePeer { key }).collect();
    let requests = runtime().block_on(async {
        let server = device(&directory, b"errno=0\n\n".to_vec(), 100);
        Uapi::new(directory.path(), DEVICE).apply(&ops).await.unwrap();
        server.await.unwrap()
    });
    assert_eq!(requests.len(), 3);
    let mut named = Vec::new();
    for request in requests {
        let Ok(Request::Set(set)) = parse_request(&request) else { panic!("{request}") };
        named.extend(set.peers.into_iter().map(|peer| Op::RemovePeer { key: peer.public_key }));
    }
    assert_eq!(named, ops);
}

#[test]
fn a_failed_request_ends_the_series() {
    let directory = tempfile::tempdir().unwrap();
    let ops: Vec<Op> = observed(600).device.peers.into_keys().map(|key| Op::RemovePeer { key }).collect();
    let requests = runtime().block_on(async {
        let server = device(&directory, b"errno=22\n\n".to_vec(), 100);
        assert!(Uapi::new(directory.path(), DEVICE).apply(&ops).await.is_err());
        server.await.unwrap()
    });
    assert_eq!(requests.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_reply_is_survived(mut reply in prop::collection::vec(any::<u8>(), 0..400), piece in 1..50usize) {
        reply.extend(b"\n\n");
        let _ = get(&reply, piece);
    }

    /// A good reply with one byte changed is read, or refused; never more.
    #[test]
    fn a_damaged_reply_is_survived(at: prop::sample::Index, byte: u8) {
        let mut reply = encode_get_reply(&observed(3)).as_bytes().to_vec();
        let at = at.index(reply.len());
        reply[at] = byte;
        let _ = get(&reply, 1000);
    }
}
