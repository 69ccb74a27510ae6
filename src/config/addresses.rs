//! The values that say where bearerd listens and which requests a credential matches.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use http::Method;
use serde_json::json;

use super::problem::Problem;
use super::reader::{Fault, FromToml};
use super::values::{is_path, text, value};
use crate::credential::{HostPattern, PathPrefix};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and a port; port 0 asks the system for a free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Returns true if only programs on this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Parses `HOST:PORT`, where HOST is an IP address or `localhost`, or `unix:PATH`.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that begins with the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match is_path(path) {
                true => Ok(Self::Unix(path.into())),
                false => Err("needs a path after `unix:`"),
            };
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

value!(
    Listen,
    "\"HOST:PORT\" with an IP address or localhost, or \"unix:/PATH\"",
    json!({ "type": "string" }),
    |value| {
        let text = value.get_ref().as_str().ok_or_else(Self::wrong_type)?;
        Self::parse(text)
            .map_err(|message| Fault::other(message, "write \"127.0.0.1:8080\" or \"unix:/PATH\""))
    }
);

/// The address of the admin listener; `None` turns it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminListen(pub Option<SocketAddr>);

value!(
    AdminListen,
    "\"HOST:PORT\" with an IP address or localhost, or \"\" for no admin listener",
    json!({ "type": "string" }),
    |value| text(value, |text| match text {
        "" => Some(Self(None)),
        _ => parse_address(text).map(|address| Self(Some(address))),
    })
);

value!(
    HostPattern,
    "a host such as \"api.example.com\", \"*.example.com\" or \"api.example.com:8443\"",
    json!({ "type": "string", "minLength": 1 }),
    |value, reader| {
        let text = value.get_ref().as_str().ok_or_else(Self::wrong_type)?;
        let host = Self::parse(text).map_err(|error| invalid::<Self>(&error))?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let problem = Problem::warning("hosts are compared in lower case").at(value.span());
            reader.problems.push(problem.fix("write it in lower case"));
        }
        Ok(host)
    }
);

fn invalid<T: FromToml>(error: &dyn std::error::Error) -> Fault {
    Fault::other(format!("contains an invalid value: {error}"), format!("write {}", T::expected()))
}

value!(
    PathPrefix,
    "the plain beginning of a path, such as \"/v2/\" or \"/${club}/\"",
    json!({ "type": "string", "pattern": "^/" }),
    |value| {
        let text = value.get_ref().as_str().ok_or_else(Self::wrong_type)?;
        Self::parse(text).map_err(|error| invalid::<Self>(&error))
    }
);

value!(Method, "a method such as \"GET\"", json!({ "type": "string", "minLength": 1 }), |value| {
    const USUAL: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let text = value.get_ref().as_str().ok_or_else(Self::wrong_type)?;
    let method = Self::from_bytes(text.as_bytes()).map_err(|_| Self::wrong_value())?;
    if matches!(method, Self::CONNECT | Self::TRACE) {
        return Err(Fault::other("names a method that never gets a token", "remove it"));
    }
    if !USUAL.contains(&text) && USUAL.contains(&text.to_ascii_uppercase().as_str()) {
        let message = "names a method in lower case, which is another method";
        return Err(Fault::other(message, "write it in capitals"));
    }
    Ok(method)
});
