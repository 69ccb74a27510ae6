//! What the JWT library needs before its first use.

use std::sync::Once;

/// Chooses the one cryptographic library of this program. The JWT library panics if it has to choose
/// between two, and another crate may turn the other one on.
pub(crate) fn install_provider() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // Someone else has installed one: just as good.
        let _installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    });
}
