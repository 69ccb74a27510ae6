//! Values that are one word out of a few, and the margin, which is a word or an amount.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::values::{FromToml, Wrong, duration};

/// Declares an enum and the words that stand for its variants in the file.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $name:ident, $expected:literal, later [$($later:literal),*] {
            $($(#[$doc:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl FromToml for $name {
            fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
                match value.get_ref().as_str() {
                    $(Some($word) => Ok(Self::$variant),)*
                    $(Some($later) => Err(Wrong::value(
                        value,
                        concat!($expected, ": `", $later, "` is not available in this version"),
                    )),)*
                    Some(_) => Err(Wrong::value(value, $expected)),
                    None => Err(Wrong::kind(value, $expected)),
                }
            }
        }
    };
}

choice! {
    /// What happens to requests for hosts that no credential names.
    Unmatched, "\"forward\" or \"deny\"", later [] {
        /// They pass untouched.
        Forward = "forward",
        /// They are answered with 403.
        Deny = "deny",
    }
}

choice! {
    /// How an access token is asked for.
    Grant,
    "\"refresh_token\", \"client_credentials\", \"password\", \"jwt_bearer\", \"token_exchange\", \
     \"device_code\", \"authorization_code\", \"self_signed_jwt\", \"custom\" or \"static\"",
    later [] {
        /// With a refresh token (RFC 6749 §6).
        RefreshToken = "refresh_token",
        /// With the client's own authentication only (RFC 6749 §4.4).
        ClientCredentials = "client_credentials",
        /// With a person's name and password (RFC 6749 §4.3).
        Password = "password",
        /// With a signed assertion (RFC 7523).
        JwtBearer = "jwt_bearer",
        /// With another token (RFC 8693).
        TokenExchange = "token_exchange",
        /// With a code that a person enters elsewhere (RFC 8628).
        DeviceCode = "device_code",
        /// With a code that a person's browser brings back (RFC 6749 §4.1).
        AuthorizationCode = "authorization_code",
        /// Not at all: the assertion is the token.
        SelfSignedJwt = "self_signed_jwt",
        /// With a request of the operator's own.
        Custom = "custom",
        /// Not at all: what is put on requests is configured.
        Static = "static",
    }
}

choice! {
    /// How the OAuth client proves itself to the token endpoint.
    ClientAuth,
    "\"post\", \"basic\", \"basic_raw\", \"both\", \"none\", \"private_key_jwt\" or \"client_secret_jwt\"",
    later [] {
        /// In the request's body.
        Post = "post",
        /// In the `Authorization` field, encoded as RFC 6749 §2.3.1 says.
        Basic = "basic",
        /// In the `Authorization` field, without that encoding.
        BasicRaw = "basic_raw",
        /// In the body and in the `Authorization` field.
        Both = "both",
        /// Not at all.
        None = "none",
        /// With an assertion signed by a private key (RFC 7523).
        PrivateKeyJwt = "private_key_jwt",
        /// With an assertion signed by the client's secret.
        ClientSecretJwt = "client_secret_jwt",
    }
}

choice! {
    /// How the parameters of a token request travel.
    Encoding, "\"form\", \"json\", \"query\" or \"get\"", later [] {
        /// As a form in the body.
        Form = "form",
        /// As JSON in the body.
        Json = "json",
        /// In the query of a POST.
        Query = "query",
        /// In the query of a GET.
        Get = "get",
    }
}

choice! {
    /// What happens to a field or parameter that the client sent itself.
    OnExisting, "\"replace\", \"keep\" or \"reject\"", later [] {
        /// The credential's takes its place.
        Replace = "replace",
        /// It stays, and the request gets no token.
        Keep = "keep",
        /// The request is answered with 403.
        Reject = "reject",
    }
}

choice! {
    /// What happens to requests while no token is to be had.
    OnFailure, "\"refuse\" or \"forward\"", later [] {
        /// They are answered with 503.
        Refuse = "refuse",
        /// They go on without a token.
        Forward = "forward",
    }
}

choice! {
    /// The shape of a log line.
    LogFormat, "\"text\" or \"json\"", later [] {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

choice! {
    /// On or off.
    Switch, "\"on\" or \"off\"", later [] {
        /// On.
        On = "on",
        /// Off.
        Off = "off",
    }
}

choice! {
    /// What becomes of the refresh token of an answer.
    Rotation, "\"auto\", \"ignore\" or \"require\"", later [] {
        /// A new one takes the place of the old.
        Auto = "auto",
        /// The old one stays.
        Ignore = "ignore",
        /// An answer without a new one is an error.
        Require = "require",
    }
}

choice! {
    /// What the numbers of a lifetime count.
    Unit, "\"s\" or \"ms\"", later [] {
        /// Seconds.
        Seconds = "s",
        /// Milliseconds.
        Milliseconds = "ms",
    }
}

/// How long before its expiry a token is replaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Margin {
    /// `"auto"`: between 10 s and 5 min, from the lifetime.
    Auto,
    /// `"30s"`: this long.
    Fixed(Duration),
    /// `"10%"`: this share of the lifetime, from 0 to 1.
    Share(f64),
}

impl FromToml for Margin {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        const EXPECTED: &str =
            "\"auto\", a duration such as \"30s\", or a share from \"0%\" to \"100%\"";
        match value.get_ref() {
            DeValue::String(text) => margin(text).ok_or_else(|| Wrong::value(value, EXPECTED)),
            DeValue::Integer(_) => Duration::from_toml(value).map(Self::Fixed),
            _ => Err(Wrong::kind(value, EXPECTED)),
        }
    }
}

fn margin(text: &str) -> Option<Margin> {
    match text.strip_suffix('%') {
        _ if text == "auto" => Some(Margin::Auto),
        Some(share) => share
            .parse()
            .ok()
            .map(|share: f64| share / 100.0)
            .filter(|share| (0.0..=1.0).contains(share))
            .map(Margin::Share),
        None => duration(text).filter(|time| *time <= super::values::LONGEST).map(Margin::Fixed),
    }
}
