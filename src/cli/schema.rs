//! `bearerd schema`: what proxy.toml may say, for editors and for people.

use std::process::ExitCode;

use super::print_result;
use crate::config;

/// The format of what `bearerd schema` prints.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum SchemaFormat {
    /// A JSON Schema, with which editors complete and check proxy.toml.
    Json,
    /// The reference page in Markdown.
    Markdown,
    /// An example proxy.toml with every key.
    Toml,
}

/// Prints what proxy.toml may say.
pub(super) fn schema(format: SchemaFormat) -> ExitCode {
    let text = match format {
        SchemaFormat::Json => format!("{:#}", config::schema()),
        SchemaFormat::Markdown => config::page(),
        SchemaFormat::Toml => config::example(),
    };
    print_result(text.trim_end());
    ExitCode::SUCCESS
}
