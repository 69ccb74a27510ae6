//! `[credential.NAME]` and the tables inside it.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use toml::Spanned;

use crate::config::field::Field;
use crate::config::forms::{
    ClaimValue, ClientSecret, Entries, KeyPlace, Literal, TextOrSecret, VariableValue, Words,
};
use crate::config::reader::keys;
use crate::config::values::{Count, NonEmpty, Period, Size};
use crate::config::words::OnFailure;
use crate::credential::{HostPattern, OnExisting, PathPrefix, RejectionRule};
use crate::oauth::{
    AnswerRule, ClientAuthentication, Comparison, Encoding, GrantType, MemberPath, Rotation,
    TimeUnit,
};
use crate::secret::SecretSource;
use crate::token::Margin;

/// Parameters: each name with one value or several.
type Parameters = Entries<Vec<Spanned<String>>>;

keys! {
    /// One way to get access tokens, and the hosts they are for. The name becomes a file name and a label of metrics:
    /// 1 to 64 of a-z, 0-9, `-` and `_`, beginning with a letter or digit.
    CredentialSection {
        /// The API hosts that get the token. The default port is 443; "*.example.com" matches one label.
        hosts: NonEmpty<HostPattern> = unset("an error: every credential needs its hosts", "[\"api.example.com\", \"*.example.com\", \"api.example.com:8443\"]"),
        /// Only requests below these paths. The longest path wins, then a listed method, so several credentials can
        /// share a host. Other requests to that host get no token; `proxy.unmatched` decides about them. `${club}`
        /// stands for one whole segment, whose allowed values are in `vars`.
        paths: NonEmpty<PathPrefix> = unset("all paths", "[\"/v2/\", \"/${club}/\"]"),
        /// Only these methods.
        methods: NonEmpty<Method> = unset("all methods", "[\"GET\", \"POST\"]"),
        /// How bearerd gets access tokens. "client_credentials" needs no refresh token. "self_signed_jwt": the assertion
        /// is the token. "custom" sends only `params` and `headers`. "static" makes no token request: `inject` uses
        /// `vars`; after a 401 these are read again from their file or command, at most once in 5 s, and the request is
        /// repeated if they changed.
        grant: GrantType = default("\"refresh_token\"", "most OAuth APIs issue refresh tokens to legacy applications"),
        /// The token endpoint.
        token_url: String = unset("what the `issuer` publishes", "\"https://login.example.com/oauth/token\""),
        /// The authorization server. What it publishes (RFC 8414, OpenID Connect Discovery) fills in the URLs that are
        /// not given; bearerd asks once a day. Write it exactly as the server's document does.
        issuer: String = unset("only the given URLs are used", "\"https://login.example.com\""),
        /// The endpoint that refresh tokens are presented to.
        refresh_url: String = unset("`token_url`", "\"https://login.example.com/oauth/refresh\""),
        /// The revocation endpoint (RFC 7009).
        revoke_url: String = unset("`bearerd logout` revokes nothing at the server", "\"https://login.example.com/oauth/revoke\""),
        /// The authorization endpoint, where a person signs in.
        auth_url: String = unset("what the `issuer` publishes", "\"https://login.example.com/oauth/authorize\""),
        /// The device authorization endpoint (RFC 8628).
        device_url: String = unset("what the `issuer` publishes", "\"https://login.example.com/oauth/device\""),
        /// The identifier of the OAuth client: a string or the place of a secret.
        client_id: TextOrSecret = unset("an error, except for the grants \"jwt_bearer\", \"self_signed_jwt\", \"custom\" and \"static\"", "\"acme\""),
        /// The secret of the OAuth client. "" is for servers that want Basic with nothing after the colon.
        [secret]
        client_secret: ClientSecret = unset("the OAuth client is public", "{ file = \"/run/secrets/client_secret\" }"),
        /// How the OAuth client authenticates to the token endpoint: "post" in the body, "basic" percent-encoded as RFC
        /// 6749 §2.3.1 says, "basic_raw" without that encoding, "both", "none", or by a signed JWT.
        client_auth: ClientAuthentication = default("\"post\"", "most servers accept it"),
        /// A client certificate for mutual TLS.
        [secret]
        client_cert: ClientCertTable = unset("no certificate is presented", "{ cert = \"client.pem\", key = \"client.key\" }"),
        /// A signed JWT, for the grant "jwt_bearer", for client_auth = "private_key_jwt" and for `${assertion}`.
        [secret]
        assertion: AssertionTable = unset("there is none", "{ key = { file = \"key.pem\" }, aud = \"https://login.example.com\" }"),
        /// The first refresh token. It is used once; afterwards the store has a newer one and wins. A new value is
        /// tried once as well, and replaces the stored one if the server accepts it.
        [secret]
        refresh_token: SecretSource = unset("`bootstrap` or the store must have one", "{ file = \"/run/secrets/seed\" }"),
        /// Where the first refresh token comes from without a person, and the next one if a token is lost.
        [secret]
        bootstrap: BootstrapTable = unset("a lost refresh token needs an operator", "{ grant = \"password\", username = \"svc\", password = { env = \"PW\" } }"),
        /// The user name for the grant "password", which RFC 9700 §2.4 forbids for new systems.
        username: String = unset("the grant \"password\" needs it", "\"svc\""),
        /// The password for the grant "password".
        [secret]
        password: SecretSource = unset("the grant \"password\" needs it", "{ file = \"/run/secrets/password\" }"),
        /// The token to exchange (RFC 8693), read for each token request.
        [secret]
        subject_token: SecretSource = unset("the grant \"token_exchange\" needs it", "{ file = \"/var/run/secrets/tokens/api\" }"),
        /// The type of `subject_token`.
        subject_token_type: String = unset("a JWT", "\"urn:ietf:params:oauth:token-type:id_token\""),
        /// The token of the party that acts for the subject (RFC 8693 §2.1).
        [secret]
        actor_token: SecretSource = unset("nobody acts for the subject", "{ env = \"ACTOR_TOKEN\" }"),
        /// The type of `actor_token`.
        actor_token_type: String = unset("a JWT", "\"urn:ietf:params:oauth:token-type:id_token\""),
        /// The scope, sent verbatim.
        scope: String = unset("none is sent", "\"a b\""),
        /// Names for the texts of this credential: `tenant` is used as `${tenant}`. A value is a text, the place of a
        /// secret, or what a request chooses from. `${client_id}`, `${uuid}` and `${now}` always exist; `$$` is one
        /// dollar sign. A variable with several values makes one credential many tokens, each with its own record and
        /// refresh. A request chooses by its path ({ club = ["paris", "lyon"] } with paths = ["/${club}/"]; other values
        /// get 403), by a field ({ club = "${field.X-Club}" }, which is not sent on: 1 to 64 of a-z A-Z 0-9 - . _ ~, at
        /// most 1024 values, or those of a list: { from = "${field.X-Club}", values = ["paris"] }), or by the client's
        /// name ("${client}", the user name of its proxy URL, http://paris:any@127.0.0.1:8080). Nobody verifies that
        /// name or a field. Both may also stand in the texts themselves. Paths of secret files may contain a variable,
        /// and those of first refresh tokens must, in a directory of their own: { file = "/run/secrets/seeds/${club}" }.
        [secret]
        vars: Entries<VariableValue> = unset("there are none", "{ tenant = \"acme\", club = [\"paris\", \"lyon\"] }"),
        /// Further parameters of token requests. A list repeats one; "" removes one that would be sent.
        [secret]
        params: Parameters = unset("none", "{ audience = \"https://api.example.com\", resource = [\"a\", \"b\"] }"),
        /// Further parameters of the token requests that present a refresh token.
        [secret]
        refresh_params: Parameters = unset("none", "{ expand = \"1\" }"),
        /// Further fields of token requests.
        [secret]
        headers: Entries<String> = unset("none", "{ \"X-Correlation-Id\" = \"${uuid}\" }"),
        /// How the parameters of a token request are sent: as a form or as JSON in the body, or in the query of a POST
        /// ("query") or a GET ("get").
        encoding: Encoding = default("\"form\"", "RFC 6749 §4 says so"),
        /// Calls that follow the token request and use its answer.
        [secret]
        steps: Vec<Spanned<StepTable>> = unset("none", "[{ url = \"https://api.example.com/session\", params = { access_token = \"${access_token}\" }, response = { access_token = \"sessionToken\" } }]"),
        /// Where the answer of the token endpoint has its members.
        response: ResponseTable = unset("as the RFCs say, read tolerantly", "{ access_token = \"data.0.token\", expires_in = \"data.0.life\" }"),
        /// Answers that mean that the refresh token is gone, in addition to the usual ones.
        dead: Vec<Spanned<AnswerRule>> = unset("only `invalid_grant` and its known variants", "[{ status = 404, error = \"not_found_error\" }]"),
        /// Answers that mean too many requests. Nothing is thrown away; bearerd tries again later.
        busy: Vec<Spanned<AnswerRule>> = unset("only the usual ones, such as 429", "[{ status = 400, body = \"exceeded the rate limit\" }]"),
        /// What happens to a new refresh token: "auto" replaces the old one with it, "ignore" keeps the old one, which
        /// several credentials may then share, "require" treats an answer without a new one as an error.
        rotation: Rotation = default("\"auto\"", "any server may start to rotate one day"),
        /// How long an access token is valid if the answer does not say.
        lifetime: Period = unset("until the API answers 401", "\"1h\""),
        /// How long before its expiry a token is replaced: a duration, a share of its lifetime such as "10%", or "auto",
        /// a tenth of it, between 10s and 5m. At most half of the lifetime.
        margin: Margin = default("\"auto\"", "longer than clocks usually differ"),
        /// Use a refresh token that has not been used for this long, so that it does not expire.
        keepalive: Period = unset("only when the server says that it is about to expire", "\"30d\""),
        /// How long to wait for the answer to a token request. Connecting takes at most 5s of it. Clients wait for
        /// `limits.wait`.
        timeout: Period = default("\"60s\"", "whoever hangs up earlier loses the refresh token that a slow server is about to send"),
        /// Allow plain http to the authorization server beyond this machine, while the API is still called over TLS. The
        /// secrets are then sent unencrypted.
        token_http: bool = default("false", "a token request carries secrets"),
        /// Plain-http requests stay plain http, for loopback and tests.
        allow_http: bool = default("false", "a token must not be sent unencrypted, so they are upgraded to TLS"),
        /// Responses of the API that mean "get a new token and repeat the request". Rules with `body` or `json` look into
        /// content of at most 64 KiB; `grpc_status` looks at calls that end without a message. For statuses other than
        /// 401 and gRPC's 16, only idempotent requests are repeated.
        refresh_on: Vec<Spanned<RejectionRule>> = default("[401]", "RFC 6750 §3.1 says so"),
        /// The fields that carry the token, and no others.
        [secret]
        inject: Entries<String> = unset("Authorization = \"Bearer ${access_token}\"", "{ Authorization = \"Token ${access_token}\" }"),
        /// The query parameters that carry the token. Fields are safer: APIs log URLs.
        [secret]
        query: Entries<String> = unset("none", "{ access_token = \"${access_token}\" }"),
        /// What happens if the application itself sent such a field or parameter: "replace" it, "keep" it and add no
        /// token, or "reject" the request with 403.
        on_existing: OnExisting = default("\"replace\"", "the application's own value is usually a placeholder"),
        /// Bind tokens to a key (RFC 9449) that bearerd creates and keeps in the store, and send a proof with each request;
        /// the application does not need to know. Tokens are sent as "Authorization: DPoP …", so an `inject` with
        /// Bearer is refused.
        dpop: bool = default("false", "the server must support it"),
        /// What happens to requests while there is no token: "refuse" answers them with 503, "forward" sends them without
        /// one.
        on_failure: OnFailure = default("\"refuse\"", "an API must not take a request for an anonymous one"),
        /// Answer the application's own calls to `token_url` with dummy tokens, for applications that insist on their own
        /// token requests. Needs `token_url`: what an issuer publishes is not known when the
        /// application asks.
        stub_token_endpoint: bool = default("false", "most applications make no token requests"),
        /// If the application used http and the API was called over TLS, Location, Content-Location and Link are changed
        /// back to http and cookies lose Secure, so that the application stays within the proxy.
        rewrite_location: bool = default("true", "the application would follow an https link outside of the proxy"),
        /// Forward fields that name another method or path (X-HTTP-Method-Override, X-HTTP-Method, X-Method-Override,
        /// X-Original-URL, X-Original-URI, X-Rewrite-URL) even if `methods` or `paths` decide.
        allow_overrides: bool = default("false", "an API that honours them would do something else than was allowed"),
        /// The longest request body that is kept for a second attempt. Longer bodies stream and are not repeated.
        replay_body: Size = default("\"1MiB\"", "nearly all API calls are smaller"),
    }
}

keys! {
    /// The grant that gets the first refresh token.
    BootstrapTable {
        /// The grant: "password", "client_credentials", "jwt_bearer", "token_exchange" or "custom".
        grant: GrantType = unset("an error", "\"password\""),
        /// As in the credential.
        username: String = unset("the grant \"password\" needs it", "\"svc\""),
        /// As in the credential.
        password: SecretSource = unset("the grant \"password\" needs it", "{ env = \"PW\" }"),
        /// As in the credential.
        subject_token: SecretSource = unset("the grant \"token_exchange\" needs it", "{ file = \"/var/run/secrets/tokens/api\" }"),
        /// As in the credential.
        subject_token_type: String = unset("a JWT", "\"urn:ietf:params:oauth:token-type:id_token\""),
        /// As in the credential.
        actor_token: SecretSource = unset("nobody acts for the subject", "{ env = \"ACTOR_TOKEN\" }"),
        /// As in the credential.
        actor_token_type: String = unset("a JWT", "\"urn:ietf:params:oauth:token-type:id_token\""),
        /// The scope of this request.
        scope: String = unset("the credential's `scope`", "\"offline_access\""),
        /// Further parameters of this request.
        params: Parameters = unset("none", "{ device = \"1\" }"),
    }
}

keys! {
    /// A signed JWT (RFC 7523).
    AssertionTable {
        /// The algorithm: RS256 to RS512, PS256 to PS512, ES256, ES384, ES512, EdDSA; HS256 to HS512 for a shared secret.
        alg: String = unset("what fits the key", "\"RS256\""),
        /// The private key: PEM, DER or JWK, or Google's JSON of a service account, which brings `kid` and `iss`. Not
        /// encrypted; base64 and line breaks written as \n are understood.
        key: SecretSource = unset("the OAuth client's secret signs, with client_auth = \"client_secret_jwt\"", "{ file = \"key.pem\" }"),
        /// The name of the key at the authorization server.
        kid: String = unset("the one in the key, if any", "\"key-1\""),
        /// The issuer.
        iss: String = unset("`${client_id}`", "\"acme\""),
        /// The subject.
        sub: String = unset("`${client_id}`", "\"acme\""),
        /// The audience.
        aud: String = unset("the token endpoint", "\"https://login.example.com\""),
        /// The time between `iat` and `exp`, at most what the server allows.
        ttl: Period = default("\"5m\"", "servers accept it, and clocks differ by less"),
        /// How far `iat` and `nbf` lie in the past.
        backdate: Duration = unset("30s, at most half of `ttl`, because clocks differ", "\"30s\""),
        /// Further claims; "" removes one.
        claims: Entries<ClaimValue> = unset("none", "{ tenant = \"acme\" }"),
        /// Further members of the header; "" removes one.
        header: Entries<ClaimValue> = unset("none", "{ typ = \"client-authentication+jwt\" }"),
        /// The certificate of the key, PEM. It adds `x5t` and `x5t#S256`.
        cert: PathBuf = unset("no hashes are sent", "\"cert.pem\""),
    }
}

keys! {
    /// A client certificate for mutual TLS. If an issuer publishes endpoints for it (`mtls_endpoint_aliases`), bearerd
    /// uses them.
    ClientCertTable {
        /// The certificate and its intermediates, PEM.
        cert: PathBuf = unset("an error", "\"client.pem\""),
        /// Its private key, PEM: the path of a file or the place of a secret.
        key: KeyPlace = unset("an error", "\"client.key\""),
        /// Present the certificate to the API as well, with requests that get the token.
        bind: bool = default("false", "few APIs check it"),
    }
}

keys! {
    /// A call that follows the token request.
    StepTable {
        /// The URL.
        url: String = unset("an error", "\"https://api.example.com/session\""),
        /// How the parameters are sent.
        encoding: Encoding = default("\"form\"", "as for token requests"),
        /// The parameters.
        params: Parameters = unset("none", "{ access_token = \"${access_token}\" }"),
        /// The fields.
        headers: Entries<String> = unset("none", "{ Authorization = \"Bearer ${access_token}\" }"),
        /// Where the answer has its members.
        response: StepResponse = unset("the answer brings no new token", "{ access_token = \"sessionToken\" }"),
    }
}

keys! {
    /// Where the answer of a step has its members.
    StepResponse {
        /// The access token.
        access_token: MemberPath = unset("the token stays", "\"sessionToken\""),
        /// The seconds until it expires.
        expires_in: MemberPath = unset("the expiry stays", "\"ttl\""),
    }
}

keys! {
    /// Where a token response has its members.
    ResponseTable {
        /// The access token.
        [secret]
        access_token: MemberPath = unset("`access_token`", "\"data.0.token\""),
        /// The refresh token.
        [secret]
        refresh_token: MemberPath = unset("`refresh_token`", "\"data.0.refresh\""),
        /// How long the access token is valid.
        expires_in: MemberPath = unset("`expires_in`", "\"data.0.life\""),
        /// When the access token expires.
        expires_at: MemberPath = unset("`expires_at`", "\"data.0.until\""),
        /// The unit of the numbers of both.
        unit: TimeUnit = unset("told by their size", "\"ms\""),
        /// How the access token is presented.
        token_type: MemberPath = unset("`token_type`", "\"data.0.kind\""),
        /// What holds for every success, for servers that answer errors with status 200.
        ok: Comparison = unset("a 200 without `error` is a success", "\"result == '0000'\""),
        /// The error code.
        [secret]
        error: MemberPath = unset("`error`", "\"result\""),
        /// A success without an access token prolongs the current one.
        keep_access_token: bool = default("false", "an answer without a token is usually an error"),
        /// How long the refresh token is valid.
        [secret]
        refresh_expires_in: MemberPath = unset("the usual names", "\"data.0.refresh_life\""),
        /// How long to wait after an error: seconds, a date, or words with a number.
        [secret]
        retry_after: MemberPath = unset("the field Retry-After", "\"error.retry_in\""),
    }
}

keys! {
    /// A kind of answer of the token endpoint. Everything that is given must hold.
    AnswerRuleTable {
        /// Its status.
        status: StatusCode = unset("any status", "404"),
        /// Its error code.
        [secret]
        error: Words = unset("any error code", "\"not_found_error\""),
        /// A text in its body.
        [secret]
        body: Words = unset("any body", "\"exceeded the rate limit\""),
        /// A place in its JSON, whose value `is` names.
        json: MemberPath = unset("any JSON", "\"error.code\""),
        /// The value at that place.
        [secret]
        is: Literal = unset("any JSON", "190"),
    }
}

keys! {
    /// A kind of response of the API: a status with one of `body`, `json` and `is`, `field` and `has`, or a gRPC status.
    RejectionRuleTable {
        /// Its status.
        status: StatusCode = unset("`grpc_status` is needed", "403"),
        /// A text in its content.
        [secret]
        body: Words = unset("any content", "\"expired\""),
        /// A place in its JSON, whose value `is` names.
        json: MemberPath = unset("any content", "\"error.code\""),
        /// The value at that place.
        [secret]
        is: Literal = unset("any content", "190"),
        /// One of its fields, in which `has` occurs.
        [secret]
        field: HeaderName = unset("any fields", "\"x-amzn-errortype\""),
        /// The text in that field.
        [secret]
        has: Words = unset("any fields", "\"ExpiredToken\""),
        /// The status of a gRPC call that ended without a message.
        grpc_status: Count<1, 16> = unset("`status` is needed", "16"),
    }
}

keys! {
    /// A variable whose value a request chooses.
    ChosenVariable {
        /// What chooses: a field, "${field.X-Club}", or the client's name, "${client}".
        from: String = unset("an error", "\"${field.X-Club}\""),
        /// The allowed values.
        values: Vec<Spanned<String>> = unset("1 to 64 of a-z A-Z 0-9 - . _ ~, at most 1024 values", "[\"paris\", \"lyon\"]"),
    }
}

impl CredentialSection {
    /// Returns the keys that are URLs of the authorization server, in the order in which `oauth::Config` has them.
    pub fn urls(&self) -> [(&'static str, &Field<String>); 6] {
        [
            ("token_url", &self.token_url),
            ("refresh_url", &self.refresh_url),
            ("revoke_url", &self.revoke_url),
            ("auth_url", &self.auth_url),
            ("device_url", &self.device_url),
            ("issuer", &self.issuer),
        ]
    }
}
