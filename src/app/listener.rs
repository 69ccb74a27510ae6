//! Listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustix::fs::Mode;
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::admission::{AcceptedSocket, Admission};
use super::data_plane::ConnectionDispatcher;
use crate::settings::Listen;

/// The pause after the system had no descriptor or memory for a connection.
const BACKOFF: Duration = Duration::from_millis(100);
/// The maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A bound address.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Binds all addresses. A socket file left by a dead process is replaced.
pub(super) fn bind_all(addresses: &[Listen]) -> Result<Vec<Listener>, StartError> {
    addresses.iter().map(bind).collect()
}

fn bind(address: &Listen) -> Result<Listener, StartError> {
    let (bound, text) = match address {
        Listen::Tcp(address) => (listen_tcp(*address).map(Listener::Tcp), address.to_string()),
        Listen::Unix(path) => (bind_unix(path), path.display().to_string()),
    };
    bound.map_err(|source| StartError::Listen { address: text, key: "proxy.listen", source })
}

/// Listens on `address` with a backlog of [`BACKLOG`] connections.
pub(super) fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Sockets of an earlier process in TIME_WAIT do not block the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    let is_socket = |file: std::fs::Metadata| file.file_type().is_socket();
    let is_abandoned = || {
        let tried = std::os::unix::net::UnixStream::connect(path);
        tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if std::fs::symlink_metadata(path).is_ok_and(is_socket) && is_abandoned() {
        std::fs::remove_file(path)?;
    }
    Ok(Listener::Unix(private_socket(path)?, path.to_owned()))
}

/// A socket of mode 0600 regardless of the umask, because anyone who can write to it can use every
/// credential.
fn private_socket(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // Linux creates the file with the socket's mode minus the umask, so it is never too permissive,
    // not even briefly. The chmod restores what the umask removed.
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::fchmod(&socket, mode)?;
    socket.bind(path)?;
    rustix::fs::chmod(path, mode)?;
    socket.listen(BACKLOG)
}

impl Listener {
    /// The address of a TCP listener.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    async fn accept(&self) -> io::Result<(AcceptedSocket, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((AcceptedSocket::Tcp(stream.into_std()?), Some(peer.ip())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((AcceptedSocket::Unix(stream.into_std()?), None))
            }
        }
    }

    /// Accepts connections until `end`, then until the backlog is empty, so that every client that
    /// has connected is served.
    pub(super) async fn accept_into(
        self,
        dispatcher: ConnectionDispatcher,
        admission: Arc<Admission>,
        end: CancellationToken,
    ) {
        let mut fails = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = end.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    fails = false;
                    admit(stream, peer, &admission, &dispatcher);
                }
                Err(error) => {
                    // Log once per series of failures.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "cannot accept connections; retrying");
                    }
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
        // With an empty backlog, accept stays pending.
        while let Some(Ok((stream, peer))) = self.accept().now_or_never() {
            admit(stream, peer, &admission, &dispatcher);
        }
        if let Self::Unix(_, path) = &self {
            // The file may already be gone.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Dispatches the connection, or closes it if a limit is reached.
fn admit(
    stream: AcceptedSocket,
    peer: Option<IpAddr>,
    admission: &Arc<Admission>,
    dispatcher: &ConnectionDispatcher,
) {
    if let Some(permit) = admission.admit(peer) {
        dispatcher.dispatch(stream, permit);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn p36_the_backlog_holds_hundreds_of_clients() {
        let listener = listen_tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let second = Duration::from_secs(1);
        let waiting: Vec<_> = (0..300)
            .map(|_| std::net::TcpStream::connect_timeout(&address, second).unwrap())
            .collect();
        assert_eq!(waiting.len(), 300);
    }
}
