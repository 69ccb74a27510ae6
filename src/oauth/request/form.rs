//! The parameters of a request and their four encodings.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::oauth::{Encoding, Parameter};
use crate::secret::Secret;
use crate::template::Values;

/// The parameters of a request, in sending order.
#[derive(Default)]
pub(in crate::oauth) struct Form(Vec<FormEntry>);

struct FormEntry {
    name: String,
    values: Vec<String>,
    list: bool,
}

impl Form {
    pub(super) fn add(&mut self, name: &str, value: &str) {
        let (name, values) = (name.to_owned(), vec![value.to_owned()]);
        self.0.push(FormEntry { name, values, list: false });
    }

    /// Adds configured parameters. They replace earlier ones of the same name; one without a value
    /// removes them.
    pub(in crate::oauth) fn replace(&mut self, parameters: &[Parameter], values: Values<'_>) {
        for Parameter { name, values: templates, list } in parameters {
            self.0.retain(|entry| entry.name != *name);
            if !templates.is_empty() {
                let values = templates.iter().map(|value| value.expand(values)).collect();
                self.0.push(FormEntry { name: name.clone(), values, list: *list });
            }
        }
    }

    /// Returns the method, the URL and the body, and adds the content type to `fields`.
    pub(in crate::oauth) fn encode(
        self,
        encoding: Encoding,
        mut url: Url,
        fields: &mut HeaderMap,
    ) -> (Method, Url, Secret) {
        let (content_type, body) = match encoding {
            Encoding::Form => ("application/x-www-form-urlencoded", self.form()),
            Encoding::Json => ("application/json", self.json()),
            Encoding::Query | Encoding::Get => {
                if !self.0.is_empty() {
                    url.query_pairs_mut().extend_pairs(self.pairs());
                }
                let method = if encoding == Encoding::Get { Method::GET } else { Method::POST };
                return (method, url, Secret::new(String::new()));
            }
        };
        // A request without parameters has no body, and so no content type; GitHub expects this.
        if !body.is_empty() && !fields.contains_key(CONTENT_TYPE) {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        (Method::POST, url, Secret::new(body))
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let of_entry = |entry| {
            let FormEntry { name, values, .. }: &FormEntry = entry;
            values.iter().map(|value| (name.as_str(), value.as_str()))
        };
        self.0.iter().flat_map(of_entry)
    }

    fn form(&self) -> String {
        Serializer::new(String::new()).extend_pairs(self.pairs()).finish()
    }

    /// Encodes the parameters as one object, in order. A parameter with several values becomes an
    /// array.
    fn json(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let text = |text: &String| Value::String(text.clone());
        let member = |FormEntry { name, values, list }: &FormEntry| {
            let value = match values.as_slice() {
                [one] if !list => text(one),
                several => several.iter().map(text).collect(),
            };
            format!("{}:{value}", text(name))
        };
        let members: Vec<String> = self.0.iter().map(member).collect();
        format!("{{{}}}", members.join(","))
    }
}
