//! A web page served from a pod's namespace, and curl run in another's.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use countersign_lab::ns::Space;

use crate::tcp;

/// Serves one body to everybody until dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to serve `body` from the pod on `port`.
    ///
    /// # Errors
    /// Those of binding.
    pub fn start(space: &Space, port: u16, body: &str) -> Result<Self> {
        let listener = tcp::listen(space, port)?;
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&listener, &answer, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the server would be shown by its own message.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, answer: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // A client that leaves early is its own affair.
            Ok((stream, _)) => drop(serve_one(stream, answer)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn serve_one(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 1 << 16 {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&buffer[..length]),
        }
    }
    stream.write_all(answer.as_bytes())
}

/// How a curl ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Curl {
    /// Its exit status: 0 is well, 28 is a time-out.
    pub exit: i32,
    /// Seconds until the connection was there; 0 if it never was.
    pub connect_seconds: f64,
    /// What it got.
    pub body: String,
}

/// Runs curl in the pod of `space` against `to`, giving up after two seconds.
///
/// # Errors
/// Where curl cannot be run.
pub fn curl(space: &Space, to: IpAddr, port: u16) -> Result<Curl> {
    let url = format!("http://{}/", SocketAddr::new(to, port));
    let output = space.run(|| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--globoff", "--max-time", "2", "--write-out", "\n%{time_connect}", &url]);
        // A proxy of the machine's would be asked from inside the pod.
        curl.args(["--noproxy", "*"]);
        curl.output().context("run curl")
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, seconds) = text.rsplit_once('\n').unwrap_or(("", &text));
    Ok(Curl {
        exit: output.status.code().unwrap_or(-1),
        connect_seconds: seconds.trim().parse().unwrap_or(0.0),
        body: body.to_owned(),
    })
}
