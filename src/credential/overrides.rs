//! Fields that override the method or path of the request line.
//!
//! Frameworks honour them (Rails, Laravel, Spring and ASP.NET for the method; Symfony, IIS and Zend
//! for the path), so they would bypass a method or path that decides whether a request gets a
//! token.

use http::header::HeaderMap;

/// Field names in lower case.
const OVERRIDES: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
];

/// Removes these fields, also when spelled with underscores, which CGI does not distinguish.
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
    fn p42_every_spelling_of_an_override_is_removed_and_nothing_else() {
        let mut fields = HeaderMap::new();
        for name in ["X-HTTP-Method-Override", "x_http_method", "X-Original-URL", "X-Other"] {
            fields.append(http::HeaderName::try_from(name).unwrap(), "DELETE".parse().unwrap());
        }
        remove(&mut fields);
        assert_eq!(fields.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-other"]);
    }
}
