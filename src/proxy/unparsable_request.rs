//! Responses to requests that hyper cannot parse, and that never reach `Proxy::serve`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue};
use http::{Method, StatusCode};

use super::Proxy;
use super::access_log::AccessLogEntry;
use super::interim::write_head;
use super::local_response::{ResponseFormat, insert_proxy_status, local_response_bytes};
use super::request_record::RequestRecord;

/// The `Proxy-Status` error type (RFC 9209). Nothing but the status is known of such a request.
pub(super) const ERROR_TYPE: &str = "http_request_error";

impl Proxy {
    /// The response that replaces hyper's response with `status`. It is counted and logged like any
    /// other.
    pub(super) fn respond_to_unparsable(&self, status: u16) -> Bytes {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let request_id = self.shared.request_ids.next().to_string();
        let snapshot = self.shared.snapshot.load();
        let line = snapshot.config.access_log.then(|| {
            let mut line = AccessLogEntry::new(&request_id, &unknown_method());
            (line.error, line.details) = (Some(ERROR_TYPE), Some(reason(status).to_owned()));
            Box::new(line)
        });
        let mut record = RequestRecord::new(Arc::clone(&snapshot.unmatched_metrics), line);
        record.record_response(status);
        match status {
            StatusCode::URI_TOO_LONG => self.shared.metrics.record_limit("request_line"),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                self.shared.metrics.record_limit("header_bytes");
            }
            _ => {}
        }
        let mut response =
            local_response_bytes(status, reason(status), ResponseFormat::Text, &request_id);
        let date = httpdate::fmt_http_date(self.shared.clock.now());
        let length = response.body().len();
        record.add_sent_bytes(length);
        let fields = response.headers_mut();
        insert_proxy_status(fields, ERROR_TYPE, None, reason(status));
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
        fields.insert(CONTENT_LENGTH, length.into());
        if let Ok(date) = HeaderValue::try_from(date) {
            fields.insert(DATE, date);
        }
        let mut bytes = BytesMut::new();
        write_head(&mut bytes, status, response.headers());
        bytes.extend_from_slice(response.body());
        bytes.freeze()
    }
}

fn unknown_method() -> Method {
    Method::from_bytes(b"-").unwrap_or_default()
}

/// Returns the text for the client.
pub(super) fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::URI_TOO_LONG => "the request line is longer than limits.request_line allows",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request head is longer than limits.header_bytes or has more fields than limits.header_count"
        }
        _ => {
            "the request cannot be parsed: its request line or a field does not conform to HTTP/1.1 (RFC 9112)"
        }
    }
}
