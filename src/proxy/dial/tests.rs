#![allow(clippy::unwrap_used)]
use std::net::TcpListener;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::resolver::Lookup;

/// Resolves every name to these addresses.
struct FixedLookup(Vec<IpAddr>);

impl Lookup for FixedLookup {
    fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, NameError> {
        Ok(self.0.clone())
    }
}

/// A listener whose accept queue is full, so that SYNs get no answer.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl BlackHole {
    async fn at(address: SocketAddr) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        // Fill the queue until an attempt gets no answer.
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let timeout = Duration::from_millis(200);
            let accepted = socket.connect_timeout(&address.into(), timeout).is_ok();
            queued.push(socket);
            assert!(queued.len() < 64, "the accept queue never fills");
            if !accepted {
                return Self { address, _listener: listener, _queued: queued };
            }
        }
    }
}

fn dialer(addresses: &[&str]) -> Dialer {
    let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
    Dialer::new(AddressPolicy::default(), network(FixedLookup(addresses)))
}

fn network(lookup: FixedLookup) -> NetworkState {
    NetworkState::new(Resolver::with_lookup(lookup), ListenerAddresses::default(), 100)
}

fn authority(port: u16) -> Authority {
    Authority { host: Host::parse("api.test").unwrap(), port }
}

fn within(time: Duration) -> Instant {
    Instant::now() + time
}

#[tokio::test]
async fn p22_an_unresponsive_address_costs_250_ms_once() {
    let hole = BlackHole::at("127.0.0.2:0".parse().unwrap()).await;
    let port = hole.address.port();
    let _server = TcpListener::bind(("127.0.0.3", port)).unwrap();
    let dialer = dialer(&["127.0.0.2", "127.0.0.3"]);
    for most in [400, 200] {
        let began = Instant::now();
        let stream = dialer.connect(&authority(port), within(Duration::from_secs(5))).await;
        assert_eq!(stream.unwrap().peer(), IpAddr::from([127, 0, 0, 3]));
        let took = began.elapsed();
        assert!(
            took < Duration::from_millis(most),
            "connecting took {took:?}, expected less than {most} ms"
        );
    }
}

#[tokio::test]
async fn p22_the_next_address_is_tried_at_once_if_one_refuses() {
    let server = TcpListener::bind("127.0.0.3:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let dialer = dialer(&["127.0.0.2", "127.0.0.3"]);
    let began = Instant::now();
    dialer.connect(&authority(port), within(Duration::from_secs(5))).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn p22_a_preferred_address_is_replaced_as_soon_as_another_works_better() {
    let server = TcpListener::bind("127.0.0.3:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let dialer = dialer(&["127.0.0.2", "127.0.0.3"]);
    dialer.connect(&authority(port), within(Duration::from_secs(5))).await.unwrap();
    assert_eq!(dialer.network.preferred.get(&authority(port)), Some([127, 0, 0, 3].into()));
    drop(server);
    let _other = TcpListener::bind(("127.0.0.2", port)).unwrap();
    dialer.connect(&authority(port), within(Duration::from_secs(5))).await.unwrap();
    assert_eq!(dialer.network.preferred.get(&authority(port)), Some([127, 0, 0, 2].into()));
}

#[tokio::test]
async fn p22_the_deadline_applies_to_all_addresses_together() {
    let hole = BlackHole::at("127.0.0.2:0".parse().unwrap()).await;
    let port = hole.address.port();
    let dialer = dialer(&["127.0.0.2", "127.0.0.2"]);
    let began = Instant::now();
    let late = dialer.connect(&authority(port), within(Duration::from_millis(600))).await;
    assert!(matches!(late, Err(OriginError::ConnectTimeout)), "{late:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn p39_all_addresses_are_checked_before_any_is_connected_to() {
    let server = TcpListener::bind("127.0.0.3:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let port = server.local_addr().unwrap().port();
    let policy = AddressPolicy { deny: vec!["10.0.0.0/8".parse().unwrap()], allow: Vec::new() };
    let lookup = FixedLookup(vec![[127, 0, 0, 3].into(), "64:ff9b::10.0.0.1".parse().unwrap()]);
    let dialer = Dialer::new(policy, network(lookup));
    let denied = dialer.connect(&authority(port), within(Duration::from_secs(5))).await;
    assert!(matches!(denied, Err(OriginError::DeniedAddress(_))), "{denied:?}");
    assert!(server.accept().is_err(), "the allowed address was connected to");
}
