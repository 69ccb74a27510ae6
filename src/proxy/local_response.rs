//! The form of responses that bearerd generates itself.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::response_body::ResponseBody;

/// The format of a message that the client prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseFormat {
    /// One sentence of plain text.
    Text,
    /// `application/problem+json` (RFC 9457).
    Json,
}

impl ResponseFormat {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let accept = fields.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("json") && !accept.contains("text/") { Self::Json } else { Self::Text }
    }
}

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A response that bearerd generates.
pub(super) fn local_response(
    status: StatusCode,
    text: &str,
    format: ResponseFormat,
    request_id: &str,
) -> Response<ResponseBody> {
    local_response_bytes(status, text, format, request_id).map(ResponseBody::full)
}

/// The same as [`local_response`], with its content as bytes.
pub(super) fn local_response_bytes(
    status: StatusCode,
    text: &str,
    format: ResponseFormat,
    request_id: &str,
) -> Response<Bytes> {
    let (kind, body) = match format {
        ResponseFormat::Text => ("text/plain; charset=utf-8", format!("bearerd: {text}\n")),
        ResponseFormat::Json => {
            let problem = serde_json::json!({
                "type": "about:blank",
                "title": status.canonical_reason(),
                "status": status.as_u16(),
                "detail": text,
                "request_id": request_id,
            });
            ("application/problem+json", format!("{problem}\n"))
        }
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    insert(fields, CONTENT_TYPE, kind);
    insert(fields, X_CONTENT_TYPE_OPTIONS, "nosniff");
    insert(fields, CACHE_CONTROL, "no-store");
    insert(fields, REQUEST_ID, request_id);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        insert(
            fields,
            http::header::ALLOW,
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT",
        );
    }
    response
}

pub(super) fn insert(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    // Every value is ASCII text from this module or a credential's name.
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.insert(name, value);
    }
}

/// Adds `Proxy-Status`, which says why bearerd generated the response (RFC 9209). `rcode` is the
/// response code of the DNS server.
pub(super) fn insert_proxy_status(
    fields: &mut HeaderMap,
    kind: &str,
    rcode: Option<&str>,
    text: &str,
) {
    let rcode = rcode.map(|rcode| format!("; rcode=\"{rcode}\"")).unwrap_or_default();
    let status = format!("bearerd; error={kind}{rcode}; details=\"{}\"", escape(text));
    insert(fields, PROXY_STATUS, &status);
}

/// A structured-field string (RFC 9651 §3.3.3).
fn escape(text: &str) -> String {
    text.chars()
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_is_escaped_as_a_structured_field_string() {
        assert_eq!(escape("a \"b\" \\ é\n"), "a \\\"b\\\" \\\\ ??");
    }

    #[test]
    fn json_is_used_if_the_client_accepts_json_and_no_text() {
        let format = |value: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(ACCEPT, HeaderValue::from_str(value).unwrap());
            ResponseFormat::of(&fields)
        };
        assert_eq!(format("application/json"), ResponseFormat::Json);
        assert_eq!(format("application/json, text/plain, */*"), ResponseFormat::Text);
        assert_eq!(format("text/html,application/xhtml+xml"), ResponseFormat::Text);
        assert_eq!(ResponseFormat::of(&HeaderMap::new()), ResponseFormat::Text);
    }
}
