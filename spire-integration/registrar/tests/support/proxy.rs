//! A way to a port of this machine that can be stopped: connections stay, and nothing goes through them any more.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub port: u16,
    stopped: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stopped, receiver) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, receiver.clone()));
            }
        });
        Self { port, stopped }
    }

    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }
}

async fn carry(mut client: TcpStream, to: u16, mut stopped: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    tokio::select! {
        biased;
        // Both ends stay open, and hear nothing; the end of the test closes them.
        _ = stopped.wait_for(|stopped| *stopped) => std::future::pending().await,
        _ = copy_bidirectional(&mut client, &mut server) => {}
    }
}
