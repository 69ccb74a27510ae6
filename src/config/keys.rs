//! Every section of `proxy.toml` and every key: the one place where a key is declared.
//!
//! What a key's documentation says reaches users: it becomes the JSON Schema, `docs/settings.md` and the comments of
//! `proxy.toml`. Each key has its default with the reason for it or, if it has none, what applies without the key and
//! an example.

mod credential;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

pub use self::credential::{
    AnswerRuleTable, AssertionTable, BootstrapTable, ChosenVariable, ClientCertTable,
    CredentialSection, RejectionRuleTable, ResponseTable, StepResponse, StepTable,
};
use super::addresses::{AdminListen, Listen};
use super::forms::OldKey;
use super::reader::keys;
use super::values::{Count, NonEmpty, Period, Size};
use super::words::{LogFormat, Switch};
use crate::proxy::Unmatched;
use crate::secret::SecretSource;

/// Returns true if `key` of `section` (empty at the top of the file) is a key of a later version. The report then says
/// so, instead of "unknown key".
pub(super) fn is_planned(section: &str, key: &str) -> bool {
    const PLANNED: [(&str, &[&str]); 3] = [
        ("", &["alert", "telemetry"]),
        ("proxy", &["client", "gateway", "listen_tls", "no_parent", "parent", "parent_auth"]),
        ("store", &["on_outage"]),
    ];
    PLANNED.iter().any(|(name, keys)| *name == section && keys.contains(&key))
}

keys! {
    /// The listeners for clients, and what may pass them.
    ProxySection {
        /// The addresses that clients connect to: "HOST:PORT", "unix:/PATH" (created with mode 0600), or a list.
        listen: NonEmpty<Listen> = default("\"127.0.0.1:8080\"", "only programs on this machine reach it"),
        /// Allow everyone who can reach a listener to use the proxy and its credentials. A listener beyond loopback is
        /// refused without it.
        open: bool = default("false", "the credentials are for this machine's applications"),
        /// What happens to requests that no credential matches: "forward" sends them on without a token, "deny" answers
        /// them with 403.
        unmatched: Unmatched = default("\"forward\"", "nothing breaks that worked without the proxy"),
        /// Networks that are never dialled, in whatever form the address is written (mapped, NAT64, 6to4). They are
        /// checked after the name has been resolved. The default contains the link-local networks and the metadata
        /// services of AWS, GCP, Azure, Alibaba, Oracle, Scaleway and Linode.
        deny_addresses: Vec<Spanned<IpNet>> = default("[\"169.254.0.0/16\", \"fe80::/10\", \"fd00:ec2::/64\", \"fd20:ce::254/128\", \"168.63.129.16/32\", \"100.100.100.200/32\", \"fd00:100::100:200/128\", \"192.0.0.192/32\", \"fd00:c1::a9fe:a9fe/128\", \"fd00:42::42/128\", \"fd00:a9fe:a9fe::1/128\"]", "a program that can be talked into fetching a URL must not get the machine's own credentials"),
        /// Exceptions to `deny_addresses`.
        allow_addresses: Vec<Spanned<IpNet>> = default("[]", "none are known"),
        /// The ports that a CONNECT may name for hosts without a credential. `[]` allows any port.
        connect_ports: Vec<Spanned<u16>> = default("[80, 443, 8443]", "the usual web ports; a CONNECT to port 22 or 25 is rarely meant"),
        /// Worker threads.
        threads: Count<1, 1024> = unset("the number of CPUs that the process may use", "2"),
        /// How long open requests may take to end when bearerd stops. 0 cuts them off.
        shutdown_grace: Duration = default("\"25s\"", "Kubernetes kills after 30s"),
    }
}

keys! {
    /// Where tokens survive a restart.
    StoreSection {
        /// The kind of store and its place: "file:DIR" or "memory:".
        url: String = unset("\"file:\" with $STATE_DIRECTORY (systemd) or else with `state` beside this file", "\"file:state\""),
        /// Encrypts the records: 32 bytes as `openssl rand -base64 32` prints them.
        [secret]
        key: SecretSource = unset("records are plain text, mode 0600", "{ file = \"/run/secrets/store_key\" }"),
        /// Former keys, after a change of `key`: records that they encrypted are still read. With "plain" in the list,
        /// records from before the first key are read too; without it they are refused beside a key, because anybody
        /// could have put them there.
        [secret]
        old_keys: Vec<Spanned<OldKey>> = default("[]", "the key has not changed"),
    }
}

keys! {
    /// The local certificate authority, which intercepted sessions are signed by.
    CaSection {
        /// The directory of ca.pem and ca.key. bearerd creates them when it first needs them.
        dir: PathBuf = unset("$STATE_DIRECTORY (systemd) or else `certs` beside this file", "\"certs\""),
        /// How long the authority's certificate is valid.
        lifetime: Period = default("\"365d\"", "clients install it by hand"),
        /// How long the certificates that it signs are valid. At most `lifetime`.
        leaf_lifetime: Period = default("\"24h\"", "they are made when needed and never stored"),
    }
}

keys! {
    /// The certificate authorities that bearerd trusts when it connects to servers.
    TlsSection {
        /// "system", "bundled" (Mozilla's list) or a PEM file.
        roots: String = default("\"system\"", "the operator maintains that list"),
        /// PEM files with further roots: your own CA, or one server's self-signed certificate.
        extra_roots: Vec<Spanned<PathBuf>> = default("[]", "public servers need none"),
    }
}

keys! {
    /// The listener for operators: /livez, /readyz, /metrics and /api/v1/credentials.
    AdminSection {
        /// "HOST:PORT", or "" to turn the listener off.
        listen: AdminListen = default("\"127.0.0.1:9090\"", "only operators on this machine reach it"),
        /// Requests that change something (`bearerd refresh`, `bearerd logout`) need this token. Beyond loopback, all
        /// requests but the probes need it.
        [secret]
        token: SecretSource = unset("bearerd creates one at its start and keeps it as admin.token, mode 0600, in the store's directory (with \"memory:\" in $STATE_DIRECTORY, or else in `state` beside this file)", "{ file = \"/run/secrets/admin_token\" }"),
        /// Serve /metrics without the token.
        metrics_public: bool = default("false", "metrics name your credentials"),
    }
}

keys! {
    /// The log on standard error. `RUST_LOG` and `--log-level` choose what is logged.
    LogSection {
        /// "text" for people, "json" for machines.
        format: LogFormat = default("\"text\"", "a person reads it first"),
        /// One line for each request.
        access: Switch = default("\"on\"", "it answers most questions about a request"),
    }
}

/// A message's head is held in memory as a whole; below 1 KiB ordinary requests fail.
type Head = Size<1024, 16_777_216>;

keys! {
    /// Limits on connections, messages, times and memory.
    LimitsSection {
        /// Client connections at a time.
        connections: Count<1, 1_000_000> = unset("10000, or a third of the file descriptors if that is less: each client may need a connection to an origin server, and the rest of the process needs some too", "10000"),
        /// Client connections at a time from one address; 0 is no limit.
        connections_per_peer: Count<0, 1_000_000> = default("0", "one application is one address"),
        /// Bytes of a request line.
        request_line: Head = default("\"8KiB\"", "RFC 9112 §3 asks every recipient to accept that much"),
        /// Bytes of the header section of a request.
        header_bytes: Head = default("\"32KiB\"", "room for large cookies and tokens, not for an attack on memory"),
        /// Fields of a message's header section, in both directions.
        header_count: Count<1, 10_000> = unset("100 for requests, several times what programs send, and 256 for responses, because APIs send more", "100"),
        /// How long a request's header section may take to arrive.
        header_read_timeout: Period = default("\"15s\"", "slower clients are broken or hostile"),
        /// How long a client's TLS handshake may take.
        handshake_timeout: Period = default("\"5s\"", "the client is near"),
        /// How long an unused connection stays open.
        idle_timeout: Period = default("\"60s\"", "load balancers in front of APIs allow more"),
        /// How long a tunnel without traffic stays open.
        tunnel_idle_timeout: Period = default("\"10m\"", "a tunnel may carry a long poll"),
        /// How long connecting to an API host may take: name, all addresses and TLS together.
        connect_timeout: Period = default("\"5s\"", "time for two retransmissions of a lost packet"),
        /// How long the header section of an API's response may take to arrive.
        response_timeout: Period = default("\"300s\"", "some APIs compute for minutes"),
        /// How long a peer may accept no byte of what waits for it: a client of its response, an API of the request's
        /// content.
        send_timeout: Period = default("\"60s\"", "longer than TCP needs to retransmit a lost packet"),
        /// How long a message's content may go without a byte; 0 is no limit.
        stall_timeout: Duration = default("\"15m\"", "event streams send a comment more often"),
        /// How long a request waits for a token.
        wait: Period = default("\"15s\"", "longer than one token request, shorter than most clients wait"),
        /// Bytes of all request bodies that are kept for a second attempt. Beyond it, bodies are not kept.
        replay_bytes: Size = default("\"64MiB\"", "64 bodies of the usual limit at a time"),
        /// Bytes of one request body; 0 is no limit.
        body_bytes: Size = default("0", "bodies stream"),
        /// Bytes of one access token.
        token_bytes: Head = default("\"64KiB\"", "the longest tokens seen have 20 kB, and few APIs read longer fields"),
    }
}
