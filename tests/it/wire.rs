//! A raw client that writes exactly the bytes of a test, and raw servers of HTTP/1.1.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::world::World;

/// Anything that takes this long counts as never happening. The one limit of all waits that assert no time: it does not
/// slow down a test that passes, and a machine may be busy or stand still for seconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A client, or a server, that writes and reads what a test tells it to.
pub(crate) struct Wire<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) unread: Vec<u8>,
}

impl Wire {
    /// A new connection to the proxy.
    pub(crate) async fn to(world: &World) -> Self {
        Self::to_address(world.proxy_address()).await
    }

    pub(crate) async fn to_address(address: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Writes; errors are ignored because the next read shows that the peer has closed.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _closed = self.stream.write_all(bytes.as_ref()).await;
        let _closed = self.stream.flush().await;
    }

    /// Sends a request without content and reads the response.
    pub(crate) async fn ask(&mut self, lines: &[impl AsRef<str>]) -> Reply {
        self.send(message(lines)).await;
        self.reply().await
    }

    /// The same for a response whose head is all that counts.
    pub(crate) async fn ask_head(&mut self, lines: &[impl AsRef<str>]) -> Reply {
        self.send(message(lines)).await;
        self.reply_head().await
    }

    /// A response with its content.
    pub(crate) async fn reply(&mut self) -> Reply {
        let mut reply = self.reply_head().await;
        if matches!(reply.status, 204 | 304) {
            return reply;
        }
        let length = reply.field("content-length").map(|length| length.parse().unwrap());
        if let Some(length) = length {
            reply.content = self.exactly(length).await;
        } else if reply.field("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk_with(&mut reply.trailers).await;
                if chunk.is_empty() {
                    break;
                }
                reply.content.extend(chunk);
            }
        } else {
            reply.content = self.rest().await;
        }
        reply
    }

    /// Status and fields of a response, and nothing beyond.
    pub(crate) async fn reply_head(&mut self) -> Reply {
        let text = self.head_text().await;
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields = lines.filter_map(field).collect();
        Reply { status, fields, content: Vec::new(), trailers: Vec::new() }
    }

    /// A head as it came.
    pub(crate) async fn head_text(&mut self) -> String {
        assert!(
            self.head_arrives_at().await.is_some(),
            "the peer closed before a whole head, after {:?}",
            self.unread
        );
        let end = self.head_arrives_at().await.unwrap();
        let head: Vec<u8> = self.unread.drain(..end).collect();
        String::from_utf8_lossy(&head).into_owned()
    }

    /// The next head, unless the peer is gone.
    pub(crate) async fn next_head(&mut self) -> Option<String> {
        let end = self.head_arrives_at().await?;
        let head: Vec<u8> = self.unread.drain(..end).collect();
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Waits for a whole head and drops it; `false` if the peer is gone.
    async fn head_arrives(&mut self) -> bool {
        let end = self.head_arrives_at().await;
        self.unread.drain(..end.unwrap_or(0));
        end.is_some()
    }

    async fn head_arrives_at(&mut self) -> Option<usize> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return Some(at + 4);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// One chunk; empty is the last.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        self.chunk_with(&mut Vec::new()).await
    }

    async fn chunk_with(&mut self, trailers: &mut Vec<(String, String)>) -> Vec<u8> {
        let size = self.line().await;
        let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("size {size:?}"));
        if size > 0 {
            let mut chunk = self.exactly(size + 2).await;
            chunk.truncate(size);
            return chunk;
        }
        loop {
            let line = self.line().await;
            match field(&line) {
                Some(trailer) => trailers.push(trailer),
                None => return Vec::new(),
            }
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.unread.windows(2).position(|bytes| bytes == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).unwrap();
            }
            assert!(self.fill().await, "the peer closed within a line");
        }
    }

    /// Reads exactly so many bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(self.fill().await, "the peer closed before {length} bytes had come");
        }
        self.unread.drain(..length).collect()
    }

    /// The first bytes that arrive; empty if the peer closes.
    pub(crate) async fn first_bytes(&mut self) -> Vec<u8> {
        self.fill().await;
        std::mem::take(&mut self.unread)
    }

    /// Everything until the peer closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.unread)
    }

    /// Asserts that the peer closes without sending anything more.
    pub(crate) async fn is_closed(&mut self) {
        let rest = self.rest().await;
        assert!(
            rest.is_empty(),
            "the peer sent more before it closed: {}",
            String::from_utf8_lossy(&rest)
        );
    }

    /// Reads some more; returns false at the end of the stream or after an error.
    async fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = within(self.stream.read(&mut buffer)).await.unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..read]);
        read > 0
    }
}

/// A response, as far as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// All of a response, for the message of a failed test.
impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "status {}", self.status)?;
        for (name, value) in &self.fields {
            write!(formatter, "\n  {name}: {value}")?;
        }
        write!(formatter, "\n  {:?}", self.text().chars().take(1000).collect::<String>())?;
        for (name, value) in &self.trailers {
            write!(formatter, "\n  trailer {name}: {value}")?;
        }
        Ok(())
    }
}

impl Reply {
    /// The whole response that an HTTP client has received.
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields = response.headers().iter();
        let fields = fields.map(|(name, value)| (name.to_string(), text(value.as_bytes())));
        let fields = fields.collect();
        let content = response.bytes().await.unwrap().to_vec();
        Self { status, fields, content, trailers: Vec::new() }
    }

    /// Asserts that the request was answered with 200.
    #[track_caller]
    pub(crate) fn assert_ok(&self) {
        self.assert_status(200, "the request was not answered with 200");
    }

    /// Asserts that bearerd refused the request because it has no usable token.
    #[track_caller]
    pub(crate) fn assert_no_token(&self) {
        self.assert_status(503, "the request was not refused although there is no usable token");
    }

    /// Asserts the status; `meaning` says what another one means.
    #[track_caller]
    pub(crate) fn assert_status(&self, expected: u16, meaning: impl fmt::Display) {
        assert!(self.status == expected, "{meaning}: expected status {expected}, got {self}");
    }

    /// The first field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }

    /// All fields of this name, in order.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// Asserts that this is bearerd's own answer, with all its fields.
    #[track_caller]
    pub(crate) fn is_refusal(&self, status: u16, kind: &str) {
        self.assert_status(status, "this is not the expected answer of bearerd itself");
        let proxy_status = self.field("proxy-status").unwrap_or_default();
        let expected = format!("bearerd; error={kind};");
        assert!(proxy_status.starts_with(&expected), "Proxy-Status is not {expected:?}: {self}");
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(
                self.field(name),
                Some(value),
                "an answer of bearerd itself lacks {name}: {self}"
            );
        }
        assert!(self.field("x-request-id").is_some(), "it has no X-Request-Id: {self}");
        assert!(
            self.text().starts_with("bearerd: ") && self.text().len() < 512,
            "the text does not begin with bearerd's name, or is too long: {self}"
        );
    }
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}

// ===== Requests =====

/// A head of these lines.
pub(crate) fn message(lines: &[impl AsRef<str>]) -> String {
    lines.iter().map(|line| format!("{}\r\n", line.as_ref())).collect::<String>() + "\r\n"
}

/// `GET url` with some `Host`; the proxy takes it from the target.
pub(crate) fn get(url: &str) -> [String; 2] {
    [format!("GET {url} HTTP/1.1"), "Host: x".to_owned()]
}

/// One request over a connection of its own.
pub(crate) async fn ask(world: &World, lines: &[impl AsRef<str>]) -> Reply {
    Wire::to(world).await.ask(lines).await
}

/// Waits for a future at most [`DEADLINE`].
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it never came")
}

// ===== Servers =====

/// An address that refuses connections.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// An origin server that answers every request head with the same bytes and stays connected.
pub(crate) async fn raw_origin(answer: String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut wire = Wire::over(stream);
                while wire.head_arrives().await {
                    wire.send(&answer).await;
                }
            });
        }
    });
    address
}
