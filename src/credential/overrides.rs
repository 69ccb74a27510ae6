//! Fields by which a request means another method or path than it says.
//!
//! Frameworks take them in place of the request line (Rails, Laravel, Spring and ASP.NET the method; Symfony, IIS
//! and Zend the path). Where a method or a path decides whether a request gets a token, they would be a way
//! around the decision.

use http::header::HeaderMap;

/// The fields, in lower case.
const OVERRIDES: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
];

/// Removes such fields, also in the spelling with underscores, which CGI cannot tell apart.
pub(super) fn remove(fields: &mut HeaderMap) {
    for name in OVERRIDES {
        fields.remove(name);
        fields.remove(name.replace('-', "_"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn p42_every_spelling_is_removed_and_nothing_else() {
        let mut fields = HeaderMap::new();
        for name in ["X-HTTP-Method-Override", "x_http_method", "X-Original-URL", "X-Other"] {
            fields.append(http::HeaderName::try_from(name).unwrap(), "DELETE".parse().unwrap());
        }
        remove(&mut fields);
        assert_eq!(fields.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-other"]);
    }
}
