//! The main job in its shortest form.

use super::world::World;

#[tokio::test]
async fn an_application_that_knows_no_oauth_gets_its_answer_in_plain_http_and_in_https() {
    let world = World::new().await;
    let client = world.client();
    for url in [world.http("/a"), world.https("/b")] {
        let response = client.get(url).send().await.unwrap();
        assert_eq!(response.status(), 200, "an application that knows no OAuth was not served");
    }
    let tokens: Vec<_> =
        world.origin.requests().iter().map(|request| request.bearer().map(str::to_owned)).collect();
    assert_eq!(
        tokens,
        vec![world.authorization_server.tokens().newest_access_token(); 2],
        "the requests were not sent with the one token"
    );
    world
        .authorization_server
        .assert_token_requests(1, "two requests have to share one token request");
}
