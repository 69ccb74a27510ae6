#![allow(clippy::unwrap_used)]
use super::*;
use crate::origin::Authority;

#[tokio::test]
async fn of_several_attempts_one_is_made_and_its_end_lets_the_others_go_on() {
    let authority = Authority::parse("api.example", Some(443)).unwrap();
    let (pool, origin) = (Pool::default(), Origin { scheme: Scheme::Https, authority });
    let first = pool.begin(&origin).unwrap_or_else(|_| panic!("nobody was before it"));
    let mut ending = pool.begin(&origin).err().unwrap();
    assert!(!ending.has_changed().unwrap());
    // As when its client hangs up.
    drop(first);
    assert!(ending.changed().await.is_err());
    assert!(pool.begin(&origin).is_ok());
}
