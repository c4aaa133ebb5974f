//! What the manager's task makes of many wishes at once, with a device that answers when it is let.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_wg_manager::{BackendChoice, Config, Desired, Manager};
use countersign_wg_proto::uapi::encode_get_reply;
use countersign_wg_proto::{Observed, OwnNode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// A device of no consequence that answers as often as `allowed` has permits, and counts the questions.
fn device(path: &std::path::Path, allowed: Arc<Semaphore>) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(path).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\n\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
            count.fetch_add(usize::from(request.starts_with(b"get=1")), Ordering::SeqCst);
            allowed.acquire().await.unwrap().forget();
            let reply = match request.starts_with(b"get=1") {
                true => encode_get_reply(&Observed::default()),
                false => "errno=0\n\n".to_owned().into(),
            };
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    asked
}

#[tokio::test]
async fn of_wishes_that_wait_together_the_last_counts_and_all_hear_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let allowed = Arc::new(Semaphore::new(0));
    let asked = device(&directory.path().join("cs_wg0.sock"), allowed.clone());
    let config = Config {
        backend: BackendChoice::Userspace,
        run_dir: directory.path().to_owned(),
        uapi_dir: directory.path().to_owned(),
        reconcile_every: Duration::from_secs(3600),
        ..Config::default()
    };
    let manager = Manager::new(config).await.unwrap();
    // The first turn waits for the device, and the wishes for it.
    while asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let wish = |number: usize| {
        let own = OwnNode { name: format!("node-{number}"), ..OwnNode::default() };
        let (manager, desired) = (manager.clone(), Desired { own, ..Desired::default() });
        tokio::spawn(async move { manager.set_peers(desired).await })
    };
    let wishes: Vec<_> = (0..10).map(wish).collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    allowed.add_permits(1_000);
    for wish in wishes {
        // There is no link of that name here: an answer all the same.
        let _ = wish.await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "a turn for the start, and one for ten wishes");
}
