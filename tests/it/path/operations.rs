//! P29, P31, P35 and P36: file descriptors, the log, and shutdown.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;

use crate::connect::connect;
use crate::program::{Program, command};
use crate::stopwatch::Stopwatch;
use crate::wire::{DEADLINE, Wire, get, message, within};
use crate::world::{World, eventually};

#[tokio::test]
async fn p29_with_few_descriptors_new_connections_are_refused_and_existing_ones_go_on() {
    let world = World::settled().await;
    let program = {
        let run = command(world.dir.path(), &["run"]);
        let mut limited = Command::new("sh");
        limited.current_dir(world.dir.path()).arg("-c").arg("ulimit -n 300; exec \"$0\" \"$@\"");
        limited.arg(run.get_program()).args(run.get_args());
        Program::start_by(limited).await
    };
    world.origin.hold();
    let mut idle = Vec::new();
    for _ in 0..320 {
        idle.push(within(tokio::net::TcpStream::connect(program.admin)).await.unwrap());
    }
    // More requests than file descriptors, each on its own connection to the API.
    let client = program.client();
    let url = world.http("/held");
    let asked: Vec<_> = (0..200)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move { client.get(url).send().await.map(|it| it.status().as_u16()) })
        })
        .collect();
    eventually("the API receives as many connections as the budget allows", || {
        world.origin.connections() >= 90
    })
    .await;
    let mut probe = Wire::to_address(program.admin).await;
    probe.ask(&["GET /livez HTTP/1.1", "Host: localhost"]).await.assert_ok();
    program.signal(Signal::HUP);
    program.logs("the new configuration is in force").await;
    world.origin.release_all();
    let mut statuses = Vec::new();
    for asked in asked {
        statuses.push(within(asked).await.unwrap().unwrap_or(0));
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(served >= 90, "{served} of 200 were served");
    let unheard = statuses.iter().filter(|status| ![200, 503, 0].contains(*status)).count();
    assert_eq!(unheard, 0, "some connections were closed without an answer: {statuses:?}");
    // Normal service resumes as soon as the clients disconnect.
    drop(client);
    within(async {
        loop {
            let mut wire = Wire::to_address(program.proxy).await;
            wire.send(message(&get(&url))).await;
            if wire.next_head().await.is_some_and(|head| head.starts_with("HTTP/1.1 200 ")) {
                break;
            }
        }
    })
    .await;
    drop(idle);
    program.stop().await;
}

/// Starts bearerd with standard error on a pipe that is read only until it listens.
fn unread(world: &World) -> (Child, SocketAddr, SocketAddr, impl BufRead + Send + 'static) {
    let mut run = command(world.dir.path(), &["run"]);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::with_capacity(1, child.stderr.take().unwrap());
    let mut address_of = |part: &str| {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        let address = line.split("address=").nth(1).unwrap();
        address.trim().trim_matches('"').parse().unwrap()
    };
    let (proxy, admin) = (address_of("bearerd is listening"), address_of("probes are at"));
    (child, proxy, admin, lines)
}

#[tokio::test]
async fn p31_an_unread_log_does_not_block_anything() {
    let world = World::settled().await;
    let (mut child, proxy, admin, pipe) = unread(&world);
    let mut wire = Wire::to_address(proxy).await;
    let request = message(&get(&world.http("/")));
    for _ in 0..2000 {
        wire.send(&request).await;
        wire.reply().await.assert_ok();
    }
    let mut probe = Wire::to_address(admin).await;
    probe.ask(&["GET /livez HTTP/1.1", "Host: localhost"]).await.assert_ok();
    drop(wire);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let began = Stopwatch::start();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert_eq!(
        within(ended).await.unwrap().code(),
        Some(0),
        "a program with an unread log did not shut down gracefully"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "it took too long: {:?}", began.elapsed());
    drop(pipe);
}

#[tokio::test]
async fn p31_dropped_log_lines_are_counted_and_logged() {
    let world = World::settled().await;
    let (mut child, proxy, admin, mut pipe) = unread(&world);
    let request = message(&get(&world.http("/")));
    let mut wire = Wire::to_address(proxy).await;
    // The pipe holds 64 KiB, the queue 4,096 lines.
    for _ in 0..6000 {
        wire.send(&request).await;
        wire.reply().await;
    }
    let mut probe = Wire::to_address(admin).await;
    let began = Instant::now();
    loop {
        let metrics = probe.ask(&["GET /metrics HTTP/1.1", "Host: localhost"]).await.text();
        let dropped =
            metrics.lines().find(|line| line.starts_with("bearerd_log_lines_dropped_total"));
        if dropped.is_some_and(|line| !line.ends_with(" 0")) {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "nothing was counted");
    }
    // A reader that resumes gets the number of dropped lines.
    let told = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        while !line.contains("log lines were dropped") {
            line.clear();
            assert!(pipe.read_line(&mut line).unwrap() > 0, "it ended");
        }
    });
    within(told).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn p35_a_silent_tunnel_ends_first_and_a_request_is_finished() {
    let mut world = World::builder().proxy("connect_ports = []").start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let (mut tunnel, _) = connect(&world, target).await;
    let (mut server, _) = within(listener.accept()).await.unwrap();
    // A request is in progress when the shutdown begins.
    let mut client = Wire::to(&world).await;
    client.send(message(&get(&format!("http://{target}/slow")))).await;
    let mut origin = Wire::over(within(listener.accept()).await.unwrap().0);
    origin.head_text().await;
    let app = world.take_app();
    let began = Stopwatch::start();
    let stopping = tokio::spawn(app.shutdown());
    // The tunnel is closed while the request is still in progress.
    tunnel.is_closed().await;
    assert!(began.elapsed() < Duration::from_secs(8), "it took too long: {:?}", began.elapsed());
    let mut end = [0; 1];
    assert_eq!(
        within(tokio::io::AsyncReadExt::read(&mut server, &mut end)).await.unwrap_or(0),
        0,
        "the tunnel was not closed at its server"
    );
    origin.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(
        client.reply().await.text(),
        "ok",
        "the shutdown interrupted the request in progress"
    );
    assert!(within(stopping).await.unwrap(), "the shutdown was not graceful");
}
