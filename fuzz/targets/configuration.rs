//! Parses any text as proxy.toml. Every problem must point into the text and be printable, and no
//! output may contain a secret from the environment.
#![no_main]

use std::path::Path;

use bearerd::config;
use bearerd::secret::Secret;
use bearerd::settings::{Environment, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (_, problems) = config::parse(text);
    for span in problems.iter().filter_map(|problem| problem.span.as_ref()) {
        assert!(span.start <= span.end && span.end <= text.len());
    }
    let environment = Environment {
        state_directory: None,
        cpus: 2,
        open_files: 1024,
        read_secret: |_| Ok(Secret::new("s3cret-of-the-environment".to_owned())),
        read_lines: |_| Ok(None),
        volatility: |_| None,
    };
    let output = match Settings::from_text("proxy.toml", Path::new("/"), text, &environment) {
        Ok(settings) => format!("{settings:?} {}", settings.warnings),
        Err(problems) => problems.to_string(),
    };
    assert!(!output.contains("s3cret-of-the-environment"));
});
