//! The text of proxy.toml: whatever it is, every finding points into it and can be shown, and no
//! secret is read but through the environment.
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
    let said = match Settings::from_text("proxy.toml", Path::new("/"), text, &environment) {
        Ok(settings) => format!("{settings:?} {}", settings.warnings),
        Err(problems) => problems.to_string(),
    };
    assert!(!said.contains("s3cret-of-the-environment"));
});
