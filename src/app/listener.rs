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
use super::admission::{Accepted, Admission};
use super::core::Entrance;
use crate::settings::Listen;

/// How long nothing is accepted after the system had no descriptor or memory for a connection.
const BACKOFF: Duration = Duration::from_millis(100);
/// Clients that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// One bound address.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Binds every address; a path that a dead process left behind is taken over.
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

/// Listens on `address`; 1,024 clients may wait to be accepted.
pub(super) fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // What the process before has left in TIME_WAIT is in nobody's way.
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

/// A socket of mode 0600, whatever the umask: whoever may write to it may use every credential.
fn private_socket(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // Linux makes the file with the mode of the socket less the umask, so it is never wider, not even
    // for a moment; what the umask has taken away is then given back.
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

    async fn accept(&self) -> io::Result<(Accepted, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Accepted::Tcp(stream.into_std()?), Some(peer.ip())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream.into_std()?), None))
            }
        }
    }

    /// Accepts until `end`, and then until the queue is empty: whoever has connected is served.
    pub(super) async fn accept_into(
        self,
        entrance: Entrance,
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
                    admit(stream, peer, &admission, &entrance);
                }
                Err(error) => {
                    // Once for each time of need.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "connections cannot be accepted for now");
                    }
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
        // A queue that is empty leaves the accept pending.
        while let Some(Ok((stream, peer))) = self.accept().now_or_never() {
            admit(stream, peer, &admission, &entrance);
        }
        if let Self::Unix(_, path) = &self {
            // Somebody may have removed it before us.
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Hands the connection on, or closes it when there are too many.
fn admit(stream: Accepted, peer: Option<IpAddr>, admission: &Arc<Admission>, entrance: &Entrance) {
    if let Some(permit) = admission.admit(peer) {
        entrance.admit(stream, permit);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn p36_a_thousand_clients_may_wait_to_be_accepted() {
        let listener = listen_tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let second = Duration::from_secs(1);
        let waiting: Vec<_> = (0..300)
            .map(|_| std::net::TcpStream::connect_timeout(&address, second).unwrap())
            .collect();
        assert_eq!(waiting.len(), 300);
    }
}
