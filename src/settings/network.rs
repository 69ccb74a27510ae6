//! `[proxy]`, `[admin]`, `[tls]`: where bearerd listens, and whom it trusts.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::review::Review;
use crate::admin::AdminToken;
use crate::config::{AdminSection, Listen, Problem, ProxySection, TlsSection};
use crate::{admin, tls};

/// The file of the admin token that bearerd creates, in the store's directory.
const ADMIN_TOKEN: &str = "admin.token";

impl Review<'_> {
    /// Every address of `proxy.listen`.
    pub(super) fn listen(&mut self, proxy: &ProxySection) -> Vec<Listen> {
        let mut listeners: Vec<Listen> = Vec::new();
        for given in proxy.listen.iter() {
            let listen = match given.get_ref() {
                Listen::Unix(path) => Listen::Unix(self.path(path)),
                tcp @ Listen::Tcp(_) => tcp.clone(),
            };
            if is_repeated(&listeners, &listen) {
                self.error(given.span(), "`proxy.listen` names this address twice", "keep one");
            } else if !listen.is_local() && !*proxy.open && !proxy.open.is_broken() {
                let message =
                    "anyone who reaches this address could use the proxy and its credentials";
                let fix = "listen on 127.0.0.1, [::1] or unix:/PATH, or write open = true in [proxy] if the network keeps others out";
                let problem = Problem::error(message).at(given.span()).fix(fix);
                match proxy.open.given() {
                    Some(_) => self.problems.push(problem),
                    None => self.missing(problem),
                }
            }
            listeners.push(listen);
        }
        listeners
    }

    /// `[admin]`. Without a token in the file, bearerd keeps one in the directory `state`.
    pub(super) fn admin(
        &mut self,
        admin: &AdminSection,
        proxy: &[Listen],
        state: &Path,
    ) -> admin::Config {
        let token =
            admin.token.given().and_then(|given| self.secret("admin.token", given, "token"));
        admin::Config {
            listen: self.admin_listen(admin, proxy),
            token: match token {
                Some((source, value)) => AdminToken::Configured { source, value },
                None => AdminToken::Generated(state.join(ADMIN_TOKEN)),
            },
            metrics_public: *admin.metrics_public,
        }
    }

    fn admin_listen(&mut self, admin: &AdminSection, proxy: &[Listen]) -> Option<SocketAddr> {
        let listen = admin.listen.0?;
        if let (Some(given), true) =
            (admin.listen.given(), is_repeated(proxy, &Listen::Tcp(listen)))
        {
            let message = "`admin.listen` is an address of `proxy.listen`";
            self.error(given.span(), message, "choose another port");
        }
        Some(listen)
    }

    /// `[tls]`.
    pub(super) fn tls(&mut self, tls: &TlsSection) -> tls::Config {
        let roots = match (tls.roots.as_str(), tls.roots.given()) {
            ("system", _) | (_, None) => tls::Roots::System,
            ("bundled", _) => tls::Roots::Bundled,
            (path, Some(given)) => {
                tls::Roots::File(self.pem_file("tls.roots", Path::new(path), given.span()))
            }
        };
        let extra = tls.extra_roots.iter();
        let extra_roots = extra
            .map(|path| self.pem_file("tls.extra_roots", path.get_ref(), path.span()))
            .collect();
        tls::Config { roots, extra_roots }
    }

    fn pem_file(&mut self, key: &str, path: &Path, span: Range<usize>) -> PathBuf {
        let path = self.path(path);
        if let Err(error) = std::fs::metadata(&path) {
            let message = format!("`{key}` names a file that cannot be read: {error}");
            self.error(span, message, "name a PEM file that the user that runs bearerd can read");
        }
        path
    }
}

fn is_repeated(listeners: &[Listen], new: &Listen) -> bool {
    let free_port = matches!(new, Listen::Tcp(address) if address.port() == 0);
    !free_port && listeners.contains(new)
}
