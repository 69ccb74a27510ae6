//! E36: an issuer whose endpoints have other addresses for clients with a certificate (RFC 8705 §5).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bearerd_test_support::{
    Answer, AuthorizationServer, AuthorizationServerConfig, OriginConfig, OriginServer, TestCa,
    TokenRequest,
};
use serde_json::{Value, json};

use super::super::world::{HOURS, World};

const CERTIFICATE: &str = "client_cert = { cert = \"client.pem\", key = \"client.key\" }\n";
const SIGNED: &str = "client_auth = \"private_key_jwt\"\nassertion = { alg = \"ES256\", key = { file = \"client.key\" } }\n";

/// A world whose token endpoint is published by an issuer, beside one that asks for certificates.
struct Published {
    world: World,
    alias: AuthorizationServer,
    /// Serves the document.
    issuer: OriginServer,
    with_certificates: bool,
}

impl Published {
    /// `lines` go into the credential in the place of `token_url`, beside the issuer.
    async fn start(lines: &str, with_secret: bool) -> Self {
        let mut world = World::plain().start_servers().await;
        let (authority, clients) = (TestCa::new(), TestCa::new());
        std::fs::write(world.dir.path().join("origin-ca.pem"), authority.pem()).unwrap();
        let certificate = clients.client_certificate("client.test");
        world.write_secret("client.pem", &certificate.pem);
        world.write_secret("client.key", &certificate.key_pem);
        let with_certificates = lines.contains("client_cert");
        let alias = AuthorizationServer::start(AuthorizationServerConfig {
            tls: Some(authority.server_config_asking(&["localhost"], &clients, true)),
            client_secret: if with_secret { "test-client-secret" } else { "" }.to_owned(),
            ..AuthorizationServerConfig::default()
        })
        .await;
        let issuer = OriginServer::start(OriginConfig::default()).await;
        let (token_url, published) = (world.authorization_server.token_url(), Self::name(&issuer));
        world.configure(|text| {
            let text = text.replace(
                &format!("token_url = \"{token_url}\""),
                &format!("issuer = \"{published}\"\n{lines}"),
            );
            match with_secret {
                true => text,
                false => text.replace("client_secret = { file = \"secret\" }", ""),
            }
        });
        Self { world, alias, issuer, with_certificates }
    }

    fn name(issuer: &OriginServer) -> String {
        format!("http://{}", issuer.authority())
    }

    fn publishes(&self, aliases: Value) {
        let mut document = json!({
            "issuer": Self::name(&self.issuer),
            "token_endpoint": self.world.authorization_server.token_url(),
        });
        if !aliases.is_null() {
            document["mtls_endpoint_aliases"] = aliases;
        }
        for _ in 0..4 {
            self.issuer.enqueue(Answer::json(200, document.clone()));
        }
    }

    /// Makes the refresh token of the expected server the seed, and makes a request.
    async fn ask(&mut self, is_alias: bool) {
        let server = if is_alias { &self.alias } else { &self.world.authorization_server };
        self.world.write_seed(&server.current_refresh_token());
        self.world.start_proxy().await;
        // The API knows the tokens of one of the servers only.
        let _either = self.world.get("/").await;
        self.world.clock.advance(HOURS);
        let _either = self.world.get("/").await;
    }

    /// The token requests to the normal endpoint and to the alias.
    fn asked(&self) -> (bool, bool) {
        let normal = self.world.authorization_server.token_requests();
        (normal > 0, self.alias.token_requests() > 0)
    }
}

fn audience(request: &TokenRequest) -> Value {
    let assertion = request.param("client_assertion").unwrap();
    let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["aud"].clone()
}

#[tokio::test]
async fn with_a_certificate_the_mtls_alias_is_used() {
    let mut published = Published::start(CERTIFICATE, true).await;
    assert!(published.with_certificates, "the test has configured no client certificate");
    let alias = published.alias.token_url();
    published.publishes(json!({"token_endpoint": alias}));
    published.ask(true).await;
    assert_eq!(
        published.asked(),
        (false, true),
        "(normal, alias): the token was not requested at the alias alone"
    );
    let newest = published.alias.tokens().newest_access_token();
    assert_eq!(
        published.world.tokens_seen().last(),
        newest.as_ref(),
        "the API was not sent the token that the alias issued"
    );
    let record = published.world.record();
    assert_eq!(
        record["refresh_token"],
        published.alias.current_refresh_token(),
        "the refresh token of the alias is not in the record"
    );
}

#[tokio::test]
async fn the_audience_of_an_assertion_stays_that_of_the_normal_endpoint() {
    let lines = format!("{CERTIFICATE}{SIGNED}");
    let mut published = Published::start(&lines, false).await;
    let alias = published.alias.token_url();
    published.publishes(json!({"token_endpoint": alias}));
    published.ask(true).await;
    assert_eq!(
        published.asked(),
        (false, true),
        "(normal, alias): the token was not requested at the alias alone"
    );
    let normal = published.world.authorization_server.token_url();
    let issuer = Published::name(&published.issuer);
    for request in published.alias.requests() {
        let audience = audience(&request).to_string();
        let is_normal = audience.contains(&normal) || audience.contains(&issuer);
        assert!(
            is_normal && !audience.contains(&alias),
            "the assertion is for another endpoint than the normal one: {audience}"
        );
    }
}

#[tokio::test]
async fn without_a_certificate_or_without_an_alias_the_normal_endpoint_is_used() {
    let revocation = json!({"revocation_endpoint": "https://revoke.test/"});
    for (lines, aliases) in [
        ("", json!({"token_endpoint": "https://alias.test/token"})),
        (CERTIFICATE, Value::Null),
        (CERTIFICATE, json!({})),
        (CERTIFICATE, revocation),
        (CERTIFICATE, json!("nonsense")),
    ] {
        let mut published = Published::start(lines, true).await;
        published.publishes(aliases.clone());
        published.ask(false).await;
        assert_eq!(
            published.asked(),
            (true, false),
            "{lines} {aliases}: (normal, alias): the token was not requested at the normal endpoint alone"
        );
        published.world.get("/").await.assert_status(200, format!("{lines} {aliases}"));
    }
}

/// A configured token URL takes precedence over the published ones.
#[tokio::test]
async fn a_configured_token_url_takes_precedence_over_the_alias() {
    let mut published = Published::start(CERTIFICATE, true).await;
    let alias = published.alias.token_url();
    published.publishes(json!({"token_endpoint": alias}));
    let normal = published.world.authorization_server.token_url();
    published
        .world
        .configure(|text| text.replace("issuer =", &format!("token_url = \"{normal}\"\nissuer =")));
    published.ask(false).await;
    assert_eq!(
        published.asked(),
        (true, false),
        "(normal, alias): the token was not requested at the configured URL alone"
    );
}
