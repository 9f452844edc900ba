//! The listening socket, and what systemd is told.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;
use std::time::Duration;

use crate::support::client::{Client, VERSION};
use crate::support::daemon::{CRIVET, Crivet, Place};
use crate::support::runtime::FakeRuntime;
use crate::support::until;

fn owner_and_mode(path: &std::path::Path) -> (u32, u32, u32) {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

#[tokio::test]
async fn it_takes_owner_and_mode_of_the_runtime_s_and_follows_them() {
    let place = Place::new();
    let crivet = Crivet::audit(&place).await;
    let own = owner_and_mode(crivet.listen());
    assert_eq!(own.2, 0o600, "while the runtime is away");
    let runtime = FakeRuntime::echo(place.path());
    // Without root a socket cannot be given away; its mode is still followed.
    let other = if own.0 == 0 { (0, 7) } else { (own.0, own.1) };
    std::os::unix::fs::chown(runtime.socket(), Some(other.0), Some(other.1)).unwrap();
    for mode in [0o660, 0o600, 0o666] {
        std::fs::set_permissions(runtime.socket(), Permissions::from_mode(mode)).unwrap();
        let expected = (other.0, other.1, mode);
        until("owner and mode", 6, || owner_and_mode(crivet.listen()) == expected).await;
    }
}

#[tokio::test]
async fn an_abandoned_socket_is_replaced() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    drop(UnixListener::bind(place.listen()).unwrap());
    assert!(place.listen().exists());
    let crivet = Crivet::audit(&place).await;
    assert_eq!(crivet.client().await.call(VERSION, b"x").await.code(), 0);
    // Killed, it leaves one behind itself, and nothing else beside it.
    drop(crivet);
    assert!(place.listen().exists());
    let again = Crivet::audit(&place).await;
    assert_eq!(again.client().await.call(VERSION, b"x").await.code(), 0);
    let beside = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let sockets = beside.filter(|name| name.to_string_lossy().starts_with("crivet.sock")).count();
    assert_eq!(sockets, 1);
}

async fn cannot_listen(place: &Place) -> String {
    let config = place.configure("mode: audit\n");
    let mut command = Command::new(CRIVET);
    command.arg("serve").arg("--config").arg(config);
    let mut crivet = Crivet::spawn(place, command);
    assert_eq!(crivet.ended().await.code(), Some(71));
    until("its last words", 5, || crivet.log().contains("cannot listen")).await;
    crivet.log()
}

#[tokio::test]
async fn a_living_socket_is_left_to_its_server() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let first = Crivet::audit(&place).await;
    let log = cannot_listen(&place).await;
    assert!(log.contains("another server answers there; stop it or listen elsewhere"), "{log}");
    assert_eq!(first.client().await.call(VERSION, b"x").await.code(), 0);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let place = Place::new();
    std::fs::write(place.listen(), "precious").unwrap();
    let log = cannot_listen(&place).await;
    assert!(log.contains("is there and is no socket; remove it or listen elsewhere"), "{log}");
    assert_eq!(std::fs::read(place.listen()).unwrap(), b"precious");
}

/// Starts crivet as systemd does: the socket is descriptor 3, and LISTEN_PID is crivet's own.
fn activated(place: &Place, socket: UnixListener, environment: &[(&str, &str)]) -> Crivet {
    let config = place.configure("mode: audit\n");
    let mut command = Command::new("sh");
    // sh makes descriptor 3 of its standard input, and becomes crivet: its own process ID stays.
    command.arg("-c").arg("exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$@\"").arg("sh");
    command.arg(CRIVET).arg("serve").arg("--config").arg(config);
    command.env("LISTEN_FDS", "1").envs(environment.iter().copied());
    Crivet::spawn_with_input(place, command, std::os::fd::OwnedFd::from(socket).into())
}

#[tokio::test]
async fn a_socket_that_systemd_hands_over_is_used_and_outlives_a_restart() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let socket = UnixListener::bind(place.listen()).unwrap();
    let inode = std::fs::metadata(place.listen()).unwrap().ino();
    let mut first = activated(&place, socket.try_clone().unwrap(), &[]);
    assert_eq!(first.client().await.call(VERSION, b"x").await.code(), 0);
    first.signal("TERM");
    assert_eq!(first.ended().await.code(), Some(0));
    // Nobody accepts now; who comes waits in the backlog.
    let waiting = tokio::net::UnixStream::connect(place.listen()).await.unwrap();
    let _second = activated(&place, socket, &[]);
    let client = Client::on(waiting).await;
    assert_eq!(client.call(VERSION, b"x").await.code(), 0);
    assert_eq!(std::fs::metadata(place.listen()).unwrap().ino(), inode);
}

fn told(socket: &UnixDatagram) -> Vec<String> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length) = socket.recv(&mut buffer) {
        said.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
    }
    said
}

#[tokio::test]
async fn systemd_is_told_what_happens() {
    let place = Place::new();
    let path = place.path().join("notify.sock");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_nonblocking(true).unwrap();
    let config = place.configure("mode: audit\n");
    let mut command = Command::new(CRIVET);
    command.arg("serve").arg("--config").arg(config);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    // Ready once it listens, the runtime there or not.
    let mut crivet = Crivet::spawn(&place, command);
    let mut said = Vec::new();
    until("READY", 10, || {
        said.extend(told(&notify));
        said.contains(&"READY=1".to_owned())
    })
    .await;
    assert!(tokio::net::UnixStream::connect(crivet.listen()).await.is_ok());
    tokio::time::sleep(Duration::from_millis(700)).await;
    said.extend(told(&notify));
    let alive = said.iter().filter(|line| *line == "WATCHDOG=1").count();
    assert!(alive >= 4, "{alive} signs of life in 700 ms of a watchdog of 300 ms");
    said.clear();
    crivet.signal("HUP");
    until("READY after a reload", 10, || {
        said.extend(told(&notify));
        said.contains(&"READY=1".to_owned())
    })
    .await;
    let at = |what: &str| said.iter().position(|line| line.starts_with(what)).unwrap();
    assert!(at("RELOADING=1") < at("READY=1"));
    assert!(said.iter().any(|line| line.starts_with("MONOTONIC_USEC=")));
    said.clear();
    crivet.signal("TERM");
    assert_eq!(crivet.ended().await.code(), Some(0));
    assert!(told(&notify).contains(&"STOPPING=1".to_owned()));
}

#[tokio::test]
async fn a_configuration_without_listen_and_runtime_endpoint_is_78() {
    let place = Place::new();
    let config = place.path().join("config.yaml");
    std::fs::write(&config, "mode: audit\n").unwrap();
    let mut command = Command::new(CRIVET);
    command.arg("serve").arg("--config").arg(config);
    let mut crivet = Crivet::spawn(&place, command);
    assert_eq!(crivet.ended().await.code(), Some(78));
}
