//! The resources that bearerd itself serves: its CA certificate, `OPTIONS *`, and stub tokens.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};

use super::local_response::{ResponseFormat, local_response};
use super::response_body::ResponseBody;
use super::{Proxy, Snapshot};
use crate::origin::{Origin, Scheme};

/// The text of a 404.
pub(super) const UNKNOWN_RESOURCE: &str = "this proxy itself serves only http://bearerd.invalid/ca.pem, and that once a credential is configured";

impl Proxy {
    /// Serves `http://bearerd.invalid/ca.pem`, and 404 for every other path.
    pub(super) fn local_resource(
        &self,
        snapshot: &Snapshot,
        parts: &Parts,
    ) -> Response<ResponseBody> {
        match &snapshot.ca {
            Some(ca) if parts.uri.path() == "/ca.pem" && parts.method == http::Method::GET => {
                let mut response =
                    Response::new(ResponseBody::full(Bytes::from(ca.pem().to_owned())));
                let kind = HeaderValue::from_static("application/x-pem-file");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            _ => {
                let format = ResponseFormat::of(&parts.headers);
                let id = self.shared.request_ids.next().to_string();
                local_response(StatusCode::NOT_FOUND, UNKNOWN_RESOURCE, format, &id)
            }
        }
    }
}

/// The response to an OPTIONS request about the proxy itself.
pub(super) fn options_response() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT");
    response.headers_mut().insert(ALLOW, methods);
    response
}

/// The response to an application that requests tokens itself. The tokens are placeholders: requests
/// that carry one get the real token.
pub(super) fn stub_token_response() -> Response<ResponseBody> {
    let tokens = concat!(
        r#"{"access_token":"bearerd-stub","token_type":"Bearer","expires_in":3600,"#,
        r#""refresh_token":"bearerd-stub"}"#
    );
    let mut response = Response::new(ResponseBody::full(Bytes::from_static(tokens.as_bytes())));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // RFC 6749 §5.1.
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns true if `origin` is `http://bearerd.invalid`. No origin server can have that name
/// (RFC 6761 §6.4).
pub(super) fn is_local_name(origin: &Origin) -> bool {
    origin.scheme == Scheme::Http
        && origin.authority.port == 80
        && origin.authority.host.name() == Some("bearerd.invalid")
}
