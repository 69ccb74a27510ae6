//! The enums of other modules that the file names by one word each.

use serde_json::json;

use super::values::{text, value};
use crate::credential::OnExisting;
use crate::oauth::{ClientAuthentication, Encoding, GrantType, Rotation, TimeUnit};
use crate::proxy::Unmatched;

/// Declares the words for the variants of an enum.
macro_rules! words {
    ($($name:ident { $($variant:ident = $word:literal,)+ })+) => { $(
        value!($name, one_of(&[$($word),+]), json!({ "enum": [$($word),+] }), |value| {
            text(value, |text| match text {
                $($word => Some(Self::$variant),)+
                _ => None,
            })
        });
    )+ };
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

/// What happens to requests while there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// bearerd answers them with 503.
    Refuse,
    /// bearerd forwards them without a token.
    Forward,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

words! {
    ClientAuthentication {
        Post = "post",
        Basic = "basic",
        BasicRaw = "basic_raw",
        Both = "both",
        None = "none",
        PrivateKeyJwt = "private_key_jwt",
        ClientSecretJwt = "client_secret_jwt",
    }
    Encoding {
        Form = "form",
        Json = "json",
        Query = "query",
        Get = "get",
    }
    GrantType {
        RefreshToken = "refresh_token",
        ClientCredentials = "client_credentials",
        Password = "password",
        JwtBearer = "jwt_bearer",
        TokenExchange = "token_exchange",
        DeviceCode = "device_code",
        AuthorizationCode = "authorization_code",
        SelfSignedJwt = "self_signed_jwt",
        Custom = "custom",
        Static = "static",
    }
    LogFormat {
        Text = "text",
        Json = "json",
    }
    OnExisting {
        Replace = "replace",
        Keep = "keep",
        Reject = "reject",
    }
    OnFailure {
        Refuse = "refuse",
        Forward = "forward",
    }
    Rotation {
        Auto = "auto",
        Ignore = "ignore",
        Require = "require",
    }
    Switch {
        On = "on",
        Off = "off",
    }
    TimeUnit {
        Seconds = "s",
        Milliseconds = "ms",
    }
    Unmatched {
        Forward = "forward",
        Deny = "deny",
    }
}
