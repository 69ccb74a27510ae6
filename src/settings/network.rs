//! `[proxy]`, `[admin]`, `[tls]`: where bearerd listens, what it dials and whom it trusts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml::Spanned;

use super::defaults;
use super::review::Review;
use crate::admin::AdminToken;
use crate::config::{self, AdminSection, Field, Problem, ProxySection, TlsSection};
use crate::proxy::Unmatched;
use crate::{admin, tls};

/// Where the proxy accepts connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port; port 0 asks the system for a free one.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Listen {
    /// Can only programs on this machine connect?
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Parses `HOST:PORT` with an address or `localhost`, or `unix:PATH`.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that begins with the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix("unix:") {
            let usable = !path.is_empty() && !path.contains('\0');
            return usable.then(|| Self::Unix(path.into())).ok_or("needs a path after `unix:`");
        }
        if text.starts_with("fd:") {
            return Err("with `fd:` is not available in this version");
        }
        parse_address(text)
            .map(Self::Tcp)
            .ok_or("must be \"HOST:PORT\" with an IP address or localhost, or \"unix:/PATH\"")
    }
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?)),
        None => text.parse().ok(),
    }
}

impl Review<'_> {
    /// Every address of `proxy.listen`.
    pub(super) fn listen(&mut self, proxy: &ProxySection) -> Vec<Listen> {
        let default = || Listen::parse(defaults::LISTEN).into_iter().collect();
        let Field::Given(texts) = &proxy.listen else { return default() };
        if texts.get_ref().is_empty() {
            let problem = Problem::error("`proxy.listen` names no address").at(texts.span());
            self.report(problem.fix(format!("write listen = \"{}\"", defaults::LISTEN)));
        }
        let mut read: Vec<Listen> = Vec::new();
        for text in texts.get_ref() {
            match Listen::parse(text.get_ref()).map(|listen| self.resolved(listen)) {
                Ok(listen) if is_repeated(&read, &listen) => {
                    let problem = Problem::error("`proxy.listen` names this address twice");
                    self.report(problem.at(text.span()).fix("keep one"));
                }
                Ok(listen) => {
                    self.check_open(&listen, text, proxy);
                    read.push(listen);
                }
                Err(message) => {
                    self.report(
                        Problem::error(format!("`proxy.listen` {message}")).at(text.span()),
                    );
                }
            }
        }
        read
    }

    fn resolved(&self, listen: Listen) -> Listen {
        match listen {
            Listen::Unix(path) => Listen::Unix(self.path(path)),
            tcp @ Listen::Tcp(_) => tcp,
        }
    }

    fn check_open(&mut self, listen: &Listen, text: &Spanned<String>, proxy: &ProxySection) {
        if listen.is_local() || proxy.open.or(false) {
            return;
        }
        let message = "anyone who reaches this address could use the proxy and its credentials";
        let fix = "listen on 127.0.0.1, [::1] or unix:/PATH, or write open = true in [proxy] if the network keeps others out";
        let problem = Problem::error(message).at(text.span()).fix(fix);
        match proxy.open {
            Field::Absent => self.missing(problem),
            Field::Given(_) => self.report(problem),
            Field::Broken => {}
        }
    }

    /// `[admin]`; a token that is not given is kept in `state`.
    pub(super) fn admin(
        &mut self,
        admin: &AdminSection,
        proxy: &[Listen],
        state: &Path,
    ) -> admin::Config {
        let given = self.admin_token(admin);
        admin::Config {
            listen: self.admin_listen(admin, proxy),
            token: given
                .unwrap_or_else(|| AdminToken::Generated(state.join(defaults::ADMIN_TOKEN))),
            metrics_public: admin.metrics_public.or(false),
        }
    }

    fn admin_token(&mut self, admin: &AdminSection) -> Option<AdminToken> {
        let given = admin.token.given().filter(|_| !self.garbled)?;
        let source = self.place_of(given);
        match self.read(&source, given.span()) {
            Ok(value) => Some(AdminToken::Configured { source, value }),
            Err(error) => {
                let problem = Problem::error(format!("`admin.token` has no value: {error}"));
                let fix = "put the token there, readable for the user that runs bearerd";
                self.report(problem.at(given.span()).fix(fix));
                None
            }
        }
    }

    fn admin_listen(&mut self, admin: &AdminSection, proxy: &[Listen]) -> Option<SocketAddr> {
        let Field::Given(text) = &admin.listen else {
            return parse_address(defaults::ADMIN_LISTEN);
        };
        let listen = parse_address(text.get_ref());
        if listen.is_none() && !text.get_ref().is_empty() {
            let message = "`admin.listen` must be \"HOST:PORT\" with an IP address or localhost, or \"\" for no admin listener";
            self.report(Problem::error(message).at(text.span()));
        }
        if listen.is_some_and(|address| is_repeated(proxy, &Listen::Tcp(address))) {
            self.report(
                Problem::error("`admin.listen` is an address of `proxy.listen`").at(text.span()),
            );
        }
        listen
    }

    /// `[tls]`.
    pub(super) fn tls(&mut self, tls: &TlsSection) -> tls::Config {
        let roots = match tls.roots.given().map(|roots| (roots.get_ref().as_str(), roots.span())) {
            None | Some(("system", _)) => tls::Roots::System,
            Some(("bundled", _)) => tls::Roots::Bundled,
            Some((path, span)) => tls::Roots::File(self.pem_file("tls.roots", path.into(), span)),
        };
        let extra = tls.extra_roots.get().into_iter().flatten();
        let extra_roots = extra
            .map(|path| self.pem_file("tls.extra_roots", path.get_ref().clone(), path.span()))
            .collect();
        tls::Config { roots, extra_roots }
    }

    fn pem_file(&mut self, key: &str, path: PathBuf, span: std::ops::Range<usize>) -> PathBuf {
        let path = self.path(path);
        if let Err(error) = std::fs::metadata(&path) {
            self.report(
                Problem::error(format!("`{key}` names a file that cannot be read: {error}"))
                    .at(span),
            );
        }
        path
    }
}

fn is_repeated(listen: &[Listen], new: &Listen) -> bool {
    let free_port = matches!(new, Listen::Tcp(address) if address.port() == 0);
    !free_port && listen.contains(new)
}

/// The networks of a list, or those of `default`.
pub(super) fn networks(field: &Field<Vec<Spanned<IpNet>>>, default: &[&str]) -> Vec<IpNet> {
    match field.get() {
        Some(networks) => networks.iter().map(|network| *network.get_ref()).collect(),
        None => default.iter().filter_map(|network| network.parse().ok()).collect(),
    }
}

/// The ports a CONNECT may name.
pub(super) fn connect_ports(proxy: &ProxySection) -> Vec<u16> {
    let given = proxy.connect_ports.get();
    given.map_or_else(
        || defaults::CONNECT_PORTS.to_vec(),
        |ports| ports.iter().map(|port| *port.get_ref()).collect(),
    )
}

/// What happens to hosts that no credential names; without a word they pass untouched.
pub(super) fn unmatched(proxy: &ProxySection) -> Unmatched {
    match proxy.unmatched.or(config::Unmatched::Forward) {
        config::Unmatched::Forward => Unmatched::Forward,
        config::Unmatched::Deny => Unmatched::Deny,
    }
}
