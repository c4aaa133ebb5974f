//! Tiny servers for pods, so that a lab needs no other program: HTTP and echoes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long a client may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest request line and headers.
const MOST_REQUEST_BYTES: u64 = 16 << 10;

/// Which servers to run, on all addresses of both families.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// TCP ports that answer HTTP requests with one line of text
    #[arg(long = "http", value_name = "PORT")]
    pub http: Vec<u16>,
    /// TCP ports that send back what they receive
    #[arg(long = "tcp-echo", value_name = "PORT")]
    pub tcp_echo: Vec<u16>,
    /// UDP ports that send back what they receive
    #[arg(long = "udp-echo", value_name = "PORT")]
    pub udp_echo: Vec<u16>,
    /// What HTTP answers with; by default the pod's name
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
}

/// Serves until killed.
///
/// # Errors
/// Where a port cannot be had, or none was asked for.
pub fn serve(args: &ServeArgs) -> Result<()> {
    let text = args.text.clone().unwrap_or_else(|| {
        let name = std::env::var("POD_NAME").unwrap_or_else(|_| "a pod".to_owned());
        format!("hello from {name}")
    });
    let mut threads = Vec::new();
    for port in &args.http {
        let (listener, text) = (listen(*port)?, text.clone());
        threads.push(thread::spawn(move || accept(&listener, move |stream| answer(stream, &text))));
    }
    for port in &args.tcp_echo {
        let listener = listen(*port)?;
        threads.push(thread::spawn(move || accept(&listener, echo)));
    }
    for port in &args.udp_echo {
        let socket = UdpSocket::bind((any(), *port)).with_context(|| format!("UDP port {port}"))?;
        threads.push(thread::spawn(move || echo_datagrams(&socket)));
    }
    if threads.is_empty() {
        bail!("nothing to serve: give --http, --tcp-echo or --udp-echo");
    }
    // They never end by themselves.
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// The IPv6 wildcard takes IPv4, too, unless the machine was told otherwise.
const fn any() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((any(), port)).with_context(|| format!("TCP port {port}"))
}

fn accept(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let serve = serve.clone();
        thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| serve(stream));
        });
    }
}

fn answer(mut stream: TcpStream, text: &str) -> io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?.take(MOST_REQUEST_BYTES));
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n{text}\n", text.len() + 1)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port that is free at this moment.
    fn port() -> u16 {
        TcpListener::bind((any(), 0)).unwrap().local_addr().unwrap().port()
    }

    fn connect(port: u16, address: &str) -> TcpStream {
        let address: IpAddr = address.parse().unwrap();
        for _ in 0..500 {
            if let Ok(stream) = TcpStream::connect((address, port)) {
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                return stream;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("nobody listens at {port}");
    }

    #[test]
    fn http_and_echoes_are_answered_in_both_families() {
        let (http, tcp, udp) = (port(), port(), port());
        let text = Some("hello".to_owned());
        let args = ServeArgs { http: vec![http], tcp_echo: vec![tcp], udp_echo: vec![udp], text };
        thread::spawn(move || serve(&args));
        for address in ["127.0.0.1", "::1"] {
            let mut stream = connect(http, address);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello\n"),
                "{answer}"
            );
            let mut stream = connect(tcp, address);
            stream.write_all(b"echo").unwrap();
            let mut back = [0; 4];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"echo");
            let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send_to(b"datagram", (address.parse::<IpAddr>().unwrap(), udp)).unwrap();
            let mut back = [0; 16];
            assert_eq!(socket.recv(&mut back).unwrap(), 8);
        }
    }

    #[test]
    fn a_request_without_end_is_not_waited_for_in_memory() {
        let http = port();
        let args = ServeArgs { http: vec![http], ..ServeArgs::default() };
        thread::spawn(move || serve(&args));
        let mut stream = connect(http, "127.0.0.1");
        let endless = vec![b'x'; 64 << 10];
        // It answers, or closes, once it has read as much as a request may have.
        let _ = stream.write_all(&endless);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(serve(&ServeArgs::default()).is_err(), "nothing to serve");
    }
}
