//! Generates `docs/errors.md` from the errors, so that each one has a row that says what to do.
//!
//! `BEARERD_WRITE_REFERENCE=1 cargo unit reference` rewrites the page.

mod no_token;

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, StatusCode};

use super::super::error_report::ErrorReport;
use super::super::origin_failure::{closed, origin_failure, tls_failure};
use super::super::{OriginError, ProxyError};
use crate::ca::CaError;
use crate::credential::{InstanceError, VariableError};
use crate::origin::AuthorityError;
use crate::proxy::framing::FramingError;
use crate::proxy::incoming_body::PeerError;
use crate::proxy::local_resources::UNKNOWN_RESOURCE;
use crate::proxy::request_target::RequestRefusal;
use crate::proxy::unparsable_request;
use crate::resolver::NameError;
use crate::tls::{CertificateFault, TlsCause};

/// The place of the name of a credential in a text.
const NAME: &str = "NAME";

/// One kind of response.
struct Row {
    report: ErrorReport,
    /// What to do about it. Empty if the text says so after its first `; `.
    next: &'static str,
}

/// Returns the rows of all variants of a type. A variant without rows does not compile.
macro_rules! rows_of_every {
    ($type:ty { $($variant:pat => $rows:expr,)+ }) => {{
        fn _has_rows(value: &$type) {
            match value {
                $($variant => (),)+
            }
        }
        [$($rows),+].into_iter().flatten().collect()
    }};
}
use rows_of_every;

/// Returns the row of an error whose text ends in the next action.
fn says(error: impl Into<ProxyError>) -> Vec<Row> {
    row(error, "")
}

fn row(error: impl Into<ProxyError>, next: &'static str) -> Vec<Row> {
    vec![Row { report: error.into().report(), next }]
}

fn origin_row(report: ErrorReport, next: &'static str) -> Vec<Row> {
    vec![Row { report, next }]
}

fn name() -> Arc<str> {
    Arc::from(NAME)
}

// ===== requests that bearerd refuses =====

fn refused_requests() -> Vec<Row> {
    use RequestRefusal::*;
    rows_of_every!(RequestRefusal {
        Authority(_) => authority_row(),
        OriginForm => row(OriginForm, "set bearerd's address as `HTTP_PROXY`"),
        Scheme => row(Scheme, "request an http:// or https:// URL"),
        Host => row(Host, "send one `Host` field that names the host of the URL"),
        ConnectTarget => row(ConnectTarget, "send the host and the port of the server"),
        ConnectContent => row(ConnectContent, "send the content through the tunnel, after the 200"),
        TransferCoding => row(TransferCoding, "send the content chunked or with `Content-Length`"),
        Path => row(Path, "request the path without them; bearerd cannot tell which credential is meant"),
        Trace => row(Trace, "ask the API directly; TRACE would return the token to the application"),
        TargetTooLong => row(TargetTooLong, "shorten the URL, or raise the limit"),
        TooManyFields => row(TooManyFields, "send fewer fields, or raise the limit"),
        ContentTooLarge => row(ContentTooLarge, "send less, or raise the limit"),
        Misdirected => row(Misdirected, "open a tunnel for each host"),
        Loop => row(Loop, "remove the proxy variables from the environment of what forwards to bearerd"),
    })
}

/// One row for all reasons, each of which says what is wrong.
fn authority_row() -> Vec<Row> {
    let error = AuthorityError::UserInfo;
    let mut report = ProxyError::from(error).report();
    report.text = report.text.replace(&error.to_string(), "…");
    vec![Row { report, next: "correct the host or port of the URL; the text says what is wrong" }]
}

/// The errors of [`ProxyError`] about the choice of a credential, then those within bearerd.
fn proxy_errors() -> Vec<Row> {
    let expired = CaError::Expired { at: SystemTime::UNIX_EPOCH };
    rows_of_every!(ProxyError {
        ProxyError::Request(_) => refused_requests(),
        ProxyError::Unmatched => {
            row(ProxyError::Unmatched, "add a credential for the host, or set `proxy.unmatched` to \"forward\"")
        },
        ProxyError::UnmatchedPath => row(
            ProxyError::UnmatchedPath,
            "change `paths` and `methods` of the credential, or set `proxy.unmatched` to \"forward\"",
        ),
        ProxyError::Existing(_) => says(ProxyError::Existing(name())),
        ProxyError::Choice { .. } => refused_choices(),
        ProxyError::MissingClientName => says(ProxyError::MissingClientName),
        ProxyError::ForbiddenPort(_) => says(ProxyError::ForbiddenPort(25)),
        ProxyError::Instance { .. } => unusable_instances(),
        // They have a table of their own.
        ProxyError::Token { .. } => vec![],
        ProxyError::Injection { .. } => {
            let too_long = "x".repeat(1 << 16).parse::<http::Uri>().map(drop);
            let error = too_long.expect_err("longer than the type permits").into();
            says(ProxyError::Injection { credential: name(), error })
        },
        ProxyError::Ca(_) => [
            says(ProxyError::Ca(Arc::new(CaError::Missing))),
            says(ProxyError::Ca(Arc::new(expired))),
        ]
        .into_iter()
        .flatten()
        .collect(),
        ProxyError::Origin(_) => origin_errors(),
    })
}

fn refused_choices() -> Vec<Row> {
    use VariableError::*;
    let field = || HeaderName::from_static("x-tenant");
    let choice = |error, next| row(ProxyError::Choice { credential: name(), error }, next);
    rows_of_every!(VariableError {
        Missing(_) => choice(Missing(field()), "send the field"),
        Repeated(_) => choice(Repeated(field()), "send the field once"),
        InvalidField(_) => choice(InvalidField(field()), "send a value of that form"),
        NoClientName => choice(NoClientName, "add the user name to the application's proxy URL"),
        InvalidClientName => choice(InvalidClientName, "use a user name of that form in the proxy URL"),
        NotAllowed(_) => choice(NotAllowed("tenant".to_owned()), ""),
    })
}

fn unusable_instances() -> Vec<Row> {
    let instance = |error| says(ProxyError::Instance { credential: name(), error });
    rows_of_every!(InstanceError {
        InstanceError::Unknown => instance(InstanceError::Unknown),
        InstanceError::TooMany => instance(InstanceError::TooMany),
        InstanceError::Secret => instance(InstanceError::Secret),
    })
}

// ===== origin servers =====

fn origin_errors() -> Vec<Row> {
    use OriginError::*;
    const SERVER: &str = "the server's operator has to correct it; bearerd's log names the fault";
    const CUT: &str = "send the request again if the API allows it: it may have been processed";
    let peer_error = || PeerError::Http2(h2::Reason::CANCEL.into());
    let io_error = || std::io::ErrorKind::Other.into();
    rows_of_every!(OriginError {
        Name(_) => name_failures(),
        DeniedAddress(_) => says(DeniedAddress(std::net::Ipv4Addr::UNSPECIFIED.into())),
        OwnAddress => row(OwnAddress, "request the API's address, not bearerd's"),
        AdminAddress => row(AdminAddress, "connect to it without the proxy (`NO_PROXY`)"),
        Refused => says(Refused),
        Unreachable(_) => says(Unreachable(io_error())),
        Exhausted(_) => says(Exhausted(io_error())),
        NoDescriptor => says(NoDescriptor),
        ConnectTimeout => says(ConnectTimeout),
        HandshakeTimeout => says(HandshakeTimeout),
        Certificate(_) => certificate_faults(),
        Tls(_) => tls_failures(),
        ResponseTimeout => row(ResponseTimeout, "check the API; raise the limit if it needs longer"),
        SendTimeout => row(SendTimeout, "check the API; raise the limit if it needs longer"),
        ContentTimeout => row(ContentTimeout, "check the application; raise the limit if it pauses for longer"),
        Closed(_) => [origin_row(closed(true), CUT), origin_row(closed(false), CUT)].into_iter().flatten().collect(),
        Response(_) => row(Response(peer_error()), SERVER),
        // The same text.
        Framing(_) => {
            assert_eq!(origin_failure(&Framing(FramingError::Both)).text, origin_failure(&Response(peer_error())).text);
            vec![]
        },
        Head => row(Head, "raise `limits.header_count` if the fields are legitimate"),
        TooManyInterim => row(TooManyInterim, SERVER),
        Upgrade => row(Upgrade, SERVER),
        Request(_) => row(Request(peer_error()), "check the application: it closed the connection or reset the stream"),
    })
}

fn name_failures() -> Vec<Row> {
    use NameError::*;
    rows_of_every!(NameError {
        NotFound => says(OriginError::Name(NotFound)),
        NoAddress => says(OriginError::Name(NoAddress)),
        Unavailable | Failed(_) => says(OriginError::Name(Unavailable)),
        Timeout => says(OriginError::Name(Timeout)),
        QueueFull => says(OriginError::Name(QueueFull)),
    })
}

fn certificate_faults() -> Vec<Row> {
    use CertificateFault::*;
    let fault = |fault| says(OriginError::Certificate(fault));
    let issuer = String::new;
    rows_of_every!(CertificateFault {
        SelfSigned => fault(SelfSigned),
        UnknownIssuer { sent_chain: true, .. } => fault(UnknownIssuer { issuer: issuer(), sent_chain: true }),
        UnknownIssuer { sent_chain: false, .. } => fault(UnknownIssuer { issuer: issuer(), sent_chain: false }),
        OtherKey { .. } => fault(OtherKey { issuer: issuer() }),
        Name { .. } => fault(Name { presented: vec![] }),
        Expired { .. } => fault(Expired { at: None }),
        NotYetValid { .. } => fault(NotYetValid { from: None }),
        Revoked => fault(Revoked),
        Purpose => fault(Purpose),
        Signature => fault(Signature),
        Algorithm => fault(Algorithm),
        Malformed | Other(_) => fault(Malformed),
    })
}

/// The rows have the error type of a handshake without an alert.
fn tls_failures() -> Vec<Row> {
    use TlsCause::*;
    let failure = |cause| origin_row(tls_failure("tls_protocol_error", cause), "");
    rows_of_every!(TlsCause {
        NotTls => failure(NotTls),
        Version => failure(Version),
        CipherSuite => failure(CipherSuite),
        ClientCertificate => failure(ClientCertificate),
        ServerName => failure(ServerName),
        Protocol => failure(Protocol),
        Closed => failure(Closed),
        InvalidName => failure(InvalidName),
        Other => failure(Other),
    })
}

// ===== requests that reach no error of the proxy =====

fn other_responses() -> Vec<Row> {
    let unparsable = |status, next| {
        let (error_type, text) =
            (unparsable_request::ERROR_TYPE, unparsable_request::reason(status));
        Row { report: ErrorReport::new(status, error_type, text), next }
    };
    vec![
        unparsable(
            StatusCode::BAD_REQUEST,
            "correct the application; it must speak HTTP/1.1 to the proxy's port",
        ),
        unparsable(StatusCode::URI_TOO_LONG, "shorten the URL, or raise the limit"),
        unparsable(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "send less, or raise the limit"),
        Row {
            report: ErrorReport::new(StatusCode::NOT_FOUND, "", UNKNOWN_RESOURCE),
            next: "request /ca.pem, or the host that you mean",
        },
    ]
}

// ===== the page =====

/// Returns `docs/errors.md`.
fn page() -> String {
    let mut page = PAGE.to_owned();
    page.push_str(no_token::SECTION);
    no_token::write_table(&mut page);
    let (mut refused, mut failed): (Vec<Row>, Vec<Row>) =
        proxy_errors().into_iter().chain(other_responses()).partition(Row::is_refusal);
    for (section, rows) in [(REFUSED, &mut refused), (FAILED, &mut failed)] {
        page.push_str(section);
        page.push_str("\n| status | error | text | what to do |\n| --- | --- | --- | --- |\n");
        rows.sort_by_key(|row| row.report.status);
        rows.iter().for_each(|row| row.write(&mut page));
    }
    page.push_str(ADMIN);
    page
}

impl Row {
    /// Returns true if only a different request or configuration can succeed.
    fn is_refusal(&self) -> bool {
        self.report.status.is_client_error() || self.report.status == StatusCode::NOT_IMPLEMENTED
    }

    fn write(&self, page: &mut String) {
        let ErrorReport { status, error_type, text, .. } = &self.report;
        let (event, next) = match self.next {
            "" => text.split_once("; ").unwrap_or_else(|| panic!("no next action: {text}")),
            next => (text.as_str(), next),
        };
        let error = match *error_type {
            "" => "none".to_owned(),
            error_type => format!("`{error_type}`"),
        };
        let row = format!("| {} | {error} | {event} | {next} |", status.as_u16());
        let _ = writeln!(page, "{}", row.replace("1970-01-01T00:00:00Z", "DATE"));
    }
}

#[test]
fn the_page_of_errors_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let generated = page();
    if std::env::var_os("BEARERD_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == generated,
        "docs/errors.md differs from the errors: run BEARERD_WRITE_REFERENCE=1 cargo test --lib reference"
    );
}

const PAGE: &str = "\
# Responses of bearerd itself

Every response that bearerd makes instead of an API, and what to do about it. This page is generated from the errors in
`src/proxy/error.rs`; an error without a row here does not compile in the tests.

A response of bearerd has these fields:

| field | content |
| --- | --- |
| `Proxy-Status` | `bearerd; error=TYPE; details=\"TEXT\"` (RFC 9209); `rcode` as well if a name does not exist or has no address |
| `X-Request-Id` | the id of the request in bearerd's log |
| `Retry-After` | only if bearerd retries by itself: seconds, from 1 to 3600 |
| `Proxy-Authenticate`, `Allow` | with 407; with 405 |
| `Connection: close` | over HTTP/1.1 if bearerd refuses the head with 400 or 501 or cannot parse it, because nothing after it can be trusted |

The content is `bearerd: TEXT`, or a problem report (RFC 9457) if the client accepts JSON and no text. Except for one
character of an invalid host, no text repeats what a client, an API or an authorization server has written. bearerd
never answers 401 itself.

A response that was cut off has no status to change: the connection is reset ([limits.md](limits.md) says when).
";

const REFUSED: &str = "
## Requests that bearerd refuses

The API may have got a part of the request only with 408, with 413, and if the content ended early. Over HTTP/2 a head
that is longer than `limits.header_bytes` gets a 431 without these fields and without content.
";

const FAILED: &str = "
## The API cannot be reached, or bearerd cannot send the request

The type is `tls_alert_received` instead of `tls_protocol_error` if the server said so in a TLS alert.
";

const ADMIN: &str = "
## The admin listener

Its responses are JSON; the member `error` says what happened and, if something can be done, what.

| status | when |
| --- | --- |
| 401 | the admin token is missing or wrong |
| 403 | the request addresses the listener by a name other than `localhost`, came through a proxy (`Via`), or bearerd has no usable admin token |
| 404 | there is no such path or credential, or the name stands for several tokens; `known` lists the names |
| 405 | the method is not GET or HEAD, or not POST for `refresh` and `logout` |
| 503 | `/livez`: a thread does not respond; `/readyz`: bearerd drains; `refresh` failed, with `Retry-After` if bearerd retries; `logout` failed and nothing was changed; a token's secret cannot be read |
";
