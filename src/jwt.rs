//! Initialises the JWT library.

use std::sync::Once;

/// Selects the program's cryptographic provider. The JWT library panics if two are compiled in and
/// none was selected, and another crate may enable the second one.
pub(crate) fn install_provider() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // Ignore the error: a provider was already installed.
        let _installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    });
}
