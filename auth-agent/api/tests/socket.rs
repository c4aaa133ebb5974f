//! Server and client over a real socket: round trips, refusals, deadlines, what is left in the file system.

use std::fs;
use std::io::{self, ErrorKind as Io, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use countersign_agent_api::limits::{MAX_CONNECTIONS, MAX_LINE, REQUEST_TIMEOUT};
use countersign_agent_api::{
    AuthEntry, Client, ClientError, Connection, Error, ErrorKind, Listener, ObserveRequest, Request, Status,
};
use tokio::time::timeout;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("run/agent.sock")
    }
}

/// Answers every request by its kind until the test ends.
fn serve(path: &Path) -> std::sync::Arc<countersign_agent_api::Counters> {
    let mut listener = Listener::bind(path).expect("a listener");
    let counters = listener.counters();
    tokio::spawn(async move {
        while let Some(connection) = listener.accept().await {
            tokio::spawn(answer(connection));
        }
    });
    counters
}

async fn answer(Connection { request, mut responder }: Connection) {
    let answered = match request {
        Request::Status => responder.reply(&Status { node: "n1".into(), ..Status::default() }).await,
        Request::AuthList => responder.list(&vec![AuthEntry::default(); 20_000]).await,
        Request::Observe(observe) if observe.follow => {
            responder.closed().await;
            Ok(())
        }
        Request::Observe(observe) => {
            for n in 0..observe.last {
                responder.item(&n).await.expect("an item");
            }
            responder.end().await
        }
        Request::Metrics => {
            let text = "x".repeat(MAX_LINE);
            assert_eq!(responder.reply(&text).await.expect_err("too long").kind(), Io::InvalidData);
            Ok(())
        }
        Request::PolicyGet => return,
        _ => responder.error(Error::new(ErrorKind::NotFound, "no such").with_hint("look again")).await,
    };
    answered.expect("an answer");
}

fn raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).expect("a connection");
    stream.write_all(bytes).expect("written");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[tokio::test]
async fn each_shape_of_answer() {
    let dir = Dir::new();
    serve(&dir.socket());
    let client = || Client::connect(dir.socket());
    let status: Status = client().await.unwrap().call(&Request::Status).await.expect("a status");
    assert_eq!(status.node, "n1");
    let pairs: Vec<AuthEntry> = client().await.unwrap().list(&Request::AuthList).await.expect("a list");
    assert_eq!(pairs.len(), 20_000);
    let observe = Request::Observe(ObserveRequest { last: 3, ..ObserveRequest::default() });
    let mut stream = client().await.unwrap().stream::<u32>(&observe).await.expect("a stream");
    for n in 0..3 {
        assert_eq!(stream.next().await.expect("an item").expect("no error"), n);
    }
    assert!(stream.next().await.is_none() && stream.next().await.is_none());
    let refused = client().await.unwrap().call::<Status>(&Request::AuthFlush).await;
    assert!(
        matches!(refused, Err(ClientError::Agent(Error { kind: ErrorKind::NotFound, hint, .. })) if hint == "look again")
    );
}

#[tokio::test]
async fn answers_that_are_none() {
    let dir = Dir::new();
    serve(&dir.socket());
    let client = || Client::connect(dir.socket());
    let closed = client().await.unwrap().call::<Status>(&Request::PolicyGet).await;
    assert!(matches!(closed, Err(ClientError::Closed)), "{closed:?}");
    let list = client().await.unwrap().call::<Status>(&Request::AuthList).await;
    assert!(matches!(list, Err(ClientError::Protocol(_))), "{list:?}");
    let value = client().await.unwrap().list::<Status>(&Request::Status).await;
    assert!(matches!(value, Err(ClientError::Protocol(_))), "{value:?}");
    let other = client().await.unwrap().call::<u32>(&Request::Status).await;
    assert!(matches!(other, Err(ClientError::Protocol(_))), "{other:?}");
    let long = client().await.unwrap().call::<String>(&Request::Metrics).await;
    assert!(matches!(long, Err(ClientError::Agent(Error { kind: ErrorKind::Internal, .. }))), "{long:?}");
}

#[tokio::test]
async fn nobody_there() {
    let dir = Dir::new();
    let missing = Client::connect(dir.socket()).await;
    assert!(matches!(&missing, Err(ClientError::NotRunning(path)) if *path == dir.socket()), "{missing:?}");
    fs::create_dir(dir.0.path().join("run")).expect("a directory");
    drop(std::os::unix::net::UnixListener::bind(dir.socket()).expect("a socket"));
    let dead = Client::connect(dir.socket()).await.expect_err("dead");
    assert!(matches!(dead, ClientError::NotRunning(_)) && dead.hint().contains("--lab"), "{dead:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_and_counted() {
    let dir = Dir::new();
    let counters = serve(&dir.socket());
    for (bytes, words) in [
        (b"hello\n".to_vec(), "not understood"),
        (br#"{"request":"no_such"}"#.iter().copied().chain(*b"\n").collect(), "not understood"),
        (b"{\"request\":\"status\"".to_vec(), "ended within a line"),
        (b"{\"request\":\"observe\",\"last\":4000000000}\n".to_vec(), "last: at most"),
        (vec![0xff; 10].into_iter().chain(*b"\n").collect(), "not understood"),
    ] {
        let text = raw(&dir.socket(), &bytes);
        assert!(text.contains(words) && text.contains("bad_request"), "{text}");
    }
    assert_eq!(counters.malformed.load(Ordering::Relaxed), 5);
    assert_eq!(raw(&dir.socket(), b""), "");
    assert!(raw(&dir.socket(), b"{\"request\":\"status\"}\n").starts_with(r#"{"reply":{"node":"n1""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_line_is_cut_off() {
    let dir = Dir::new();
    let counters = serve(&dir.socket());
    let mut stream = UnixStream::connect(dir.socket()).expect("a connection");
    let flood = vec![b'x'; MAX_LINE * 4];
    let error = stream.write_all(&flood).expect_err("the agent hangs up");
    assert!(matches!(error.kind(), Io::BrokenPipe | Io::ConnectionReset), "{error}");
    let mut text = String::new();
    // What was not read when the agent hung up may turn into an error after the answer.
    let _ = stream.read_to_string(&mut text);
    assert!(text.contains("longer than"), "{text}");
    assert_eq!(counters.malformed.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_are_cut_off_and_hold_nobody_up() {
    let dir = Dir::new();
    let counters = serve(&dir.socket());
    let start = Instant::now();
    let mut slow = UnixStream::connect(dir.socket()).expect("a connection");
    slow.write_all(b"{\"request\":").expect("written");
    let status: Status =
        Client::connect(dir.socket()).await.unwrap().call(&Request::Status).await.expect("a status");
    assert_eq!(status.node, "n1");
    assert!(start.elapsed() < REQUEST_TIMEOUT / 2);
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        slow.read_to_string(&mut text).map(|_| text)
    });
    let text = text.await.expect("joined").expect("an answer");
    assert!(text.contains("timeout"), "{text}");
    assert!(start.elapsed() >= REQUEST_TIMEOUT && start.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(3));
    assert_eq!(counters.timed_out.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn connections_are_bounded_and_their_places_come_back() {
    let dir = Dir::new();
    let counters = serve(&dir.socket());
    let follow = Request::Observe(ObserveRequest { follow: true, ..ObserveRequest::default() });
    let mut followers = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let client = Client::connect(dir.socket()).await.expect("a connection");
        followers.push(client.stream::<u32>(&follow).await.expect("a stream"));
    }
    let refused = Client::connect(dir.socket()).await.unwrap().call::<Status>(&Request::Status).await;
    assert!(
        matches!(&refused, Err(ClientError::Agent(Error { kind: ErrorKind::Overloaded, .. }))),
        "{refused:?}"
    );
    assert_eq!(counters.refused_overload.load(Ordering::Relaxed), 1);
    drop(followers);
    let back = timeout(Duration::from_secs(2), async {
        while Client::connect(dir.socket()).await.unwrap().call::<Status>(&Request::Status).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    back.await.expect("the agent notices that followers have gone");
}

/// Runs `work` on a thread with that effective user; the others keep theirs.
fn as_user<T: Send + 'static>(uid: libc::uid_t, work: impl FnOnce() -> T + Send + 'static) -> T {
    let run = move || {
        // SAFETY: a system call without pointers; called directly, it changes this thread's credentials alone.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        work()
    };
    std::thread::spawn(run).join().expect("the other user's thread")
}

fn must_be_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(root || !ci, "this test changes users, which needs root");
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn others_than_root_are_kept_out_by_the_file_system() {
    if !must_be_root() {
        return;
    }
    let dir = Dir::new();
    serve(&dir.socket());
    let path = dir.socket();
    let error = as_user(65534, move || UnixStream::connect(path).expect_err("kept out"));
    assert_eq!(error.kind(), Io::PermissionDenied);
    let path = dir.socket();
    let error = as_user(65534, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(Client::connect(path)).expect_err("kept out")
    });
    assert!(matches!(&error, ClientError::Permission(_)) && error.hint().contains("root"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_than_root_are_refused_where_modes_were_widened() {
    if !must_be_root() {
        return;
    }
    let dir = Dir::new();
    let counters = serve(&dir.socket());
    for path in [dir.0.path(), &dir.0.path().join("run"), &dir.socket()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("widened");
    }
    let path = dir.socket();
    let text = as_user(65534, move || {
        let mut stream = UnixStream::connect(path).expect("a connection");
        let mut text = String::new();
        // The agent may have hung up already; its words are there all the same.
        let _ = stream.write_all(b"{\"request\":\"auth_flush\"}\n");
        let _ = stream.read_to_string(&mut text);
        text
    });
    assert!(text.contains("forbidden") && text.contains("user 65534"), "{text}");
    assert_eq!(counters.refused_peer.load(Ordering::Relaxed), 1);
    assert_eq!(counters.served.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn modes_and_what_is_left() {
    let dir = Dir::new();
    let path = dir.socket();
    let listener = Listener::bind(&path).expect("a listener");
    let mode = |path: &Path| fs::symlink_metadata(path).expect("there").mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&dir.0.path().join("run")), 0o700);
    let again = Listener::bind(&path).expect_err("in use");
    assert_eq!(again.kind(), Io::AddrInUse);
    assert!(path.exists());
    drop(listener);
    assert!(!path.exists());
    drop(Listener::bind(&path).expect("free again"));
}

#[tokio::test]
async fn what_a_dead_agent_left_is_replaced() {
    let dir = Dir::new();
    let path = dir.socket();
    fs::create_dir(dir.0.path().join("run")).expect("a directory");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    drop(std::os::unix::net::UnixListener::bind(path.with_extension("sock.new")).expect("a socket"));
    fs::write(path.with_extension("sock.lock"), "").expect("a lock");
    serve(&path);
    let status: Status =
        Client::connect(&path).await.unwrap().call(&Request::Status).await.expect("a status");
    assert_eq!(status.node, "n1");
}

#[tokio::test]
async fn nothing_but_a_socket_is_replaced() {
    for planted in ["agent.sock", "agent.sock.new", "agent.sock.lock"] {
        let dir = Dir::new();
        let run = dir.0.path().join("run");
        fs::create_dir(&run).expect("a directory");
        let precious = dir.0.path().join("precious");
        fs::write(&precious, "data").expect("a file");
        symlink(&precious, run.join(planted)).expect("a link");
        assert!(Listener::bind(dir.socket()).is_err(), "{planted}");
        assert_eq!(fs::read_to_string(&precious).expect("still there"), "data");
        assert!(run.join(planted).is_symlink());
    }
    let dir = Dir::new();
    fs::create_dir(dir.0.path().join("run")).expect("a directory");
    fs::write(dir.socket(), "data").expect("a file");
    assert_eq!(Listener::bind(dir.socket()).expect_err("a file").kind(), Io::AlreadyExists);
}

#[tokio::test]
async fn a_directory_that_others_write_to_is_no_place_for_it() {
    let dir = Dir::new();
    let run = dir.0.path().join("run");
    fs::create_dir(&run).expect("a directory");
    for mode in [0o777, 0o1777, 0o770] {
        fs::set_permissions(&run, fs::Permissions::from_mode(mode)).expect("widened");
        let error = Listener::bind(dir.socket()).expect_err("refused");
        assert!(error.kind() == Io::InvalidInput && error.to_string().contains("0700"), "{mode:o}: {error}");
    }
    let long = dir.0.path().join("x".repeat(100));
    assert_eq!(Listener::bind(long).expect_err("too long").kind(), Io::InvalidInput);
}
