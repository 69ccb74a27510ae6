//! What applies where the file says nothing, each with its reason.

use std::time::Duration;

/// `proxy.listen`: only programs on this machine reach it.
pub const LISTEN: &str = "127.0.0.1:8080";

/// `proxy.deny_addresses`: the metadata services of clouds and link-local neighbours. A program that
/// can be talked into fetching a URL must not get the machine's own credentials through the proxy.
pub const DENY_ADDRESSES: [&str; 11] = [
    // Link-local: AWS, GCP, Azure, Oracle, OpenStack and most others have theirs at 169.254.169.254.
    "169.254.0.0/16",
    "fe80::/10",
    // AWS by IPv6: the machine's at ::254, credentials of EKS pods at ::23.
    "fd00:ec2::/64",
    // GCP by IPv6.
    "fd20:ce::254/128",
    // Azure's wire server, which hands out certificates and settings of the machine.
    "168.63.129.16/32",
    // Alibaba, in the range of carrier-grade NAT, and by IPv6.
    "100.100.100.200/32",
    "fd00:100::100:200/128",
    // Oracle Cloud Classic, and Oracle by IPv6.
    "192.0.0.192/32",
    "fd00:c1::a9fe:a9fe/128",
    // Scaleway and Linode by IPv6.
    "fd00:42::42/128",
    "fd00:a9fe:a9fe::1/128",
];

/// `proxy.connect_ports`: the web's. A CONNECT to port 25 or 22 is rarely meant.
pub const CONNECT_PORTS: [u16; 3] = [80, 443, 8443];

/// `proxy.shutdown_grace`, 25 s: shorter than the 30 s after which Kubernetes kills.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(25);

/// `credential.NAME.replay_body`, 1 MiB: nearly all API calls are smaller.
pub const REPLAY_BODY: u64 = 1 << 20;

/// `credential.NAME.timeout`, 60 s for the answer to a token request: whoever hangs up earlier loses the
/// refresh token that a slow server is about to send. Clients wait for `limits.wait` and no longer.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The directory of `store.url` where systemd gives none.
pub const STORE_DIR: &str = "state";

/// `ca.dir` where systemd gives none.
pub const CA_DIR: &str = "certs";

/// `ca.lifetime`, a year: the certificate is installed by hand.
pub const CA_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// `ca.leaf_lifetime`, a day: leaves are made when needed and never stored.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The file of the admin token where `admin.token` is not given, in the store's directory.
pub const ADMIN_TOKEN: &str = "admin.token";
/// `admin.listen`: for operators on this machine.
pub const ADMIN_LISTEN: &str = "127.0.0.1:9090";

/// `limits.connections` at most; a third of the file descriptors if that is less, because each
/// client may need a connection to an origin server and the rest of the process needs some too.
pub const CONNECTIONS: u64 = 10_000;

/// `limits.request_line`, 8 KiB: what RFC 9112 §3 asks every recipient to accept.
pub const REQUEST_LINE: u64 = 8 << 10;

/// `limits.header_bytes`, 32 KiB: room for large cookies and tokens, not for an attack on memory.
pub const HEADER_BYTES: u64 = 32 << 10;

/// `limits.header_count`: four times what browsers send.
pub const HEADER_COUNT: u64 = 100;

/// The same for responses where `limits.header_count` is not given, 256: APIs send more fields than clients do.
pub const RESPONSE_HEADER_COUNT: usize = 256;

/// `limits.header_read_timeout`, 15 s: slower clients are broken or hostile.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(15);

/// `limits.handshake_timeout`, 5 s: the client is near.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// `limits.idle_timeout`, 60 s: below the idle time of common load balancers in front of APIs.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// `limits.tunnel_idle_timeout`, 10 min: a tunnel may carry a long poll.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// `limits.connect_timeout`, 5 s for the name, all its addresses and the TLS handshake together: room for one
/// lost SYN and its second repetition.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// `limits.response_timeout`, 300 s until the response's head: some APIs think long.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);

/// `limits.send_timeout`, 60 s for a peer that takes nothing at all: longer than a lost connection is repeated by TCP.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// `limits.stall_timeout`, 15 min for content that brings nothing: event streams send a comment more often.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(900);

/// `limits.wait`, 15 s: longer than one token request, shorter than the patience of most clients.
pub const WAIT: Duration = Duration::from_secs(15);

/// `limits.token_bytes`, 64 KiB: the longest tokens seen have 20 kB, and few APIs read longer fields.
pub const TOKEN_BYTES: u64 = 64 << 10;

/// `limits.replay_bytes`, 64 MiB for all kept bodies together.
pub const REPLAY_BYTES: u64 = 64 << 20;
