//! Every RPC of the method table and two that nobody has invented yet, with random bytes.

use bytes::Bytes;
use crivet::cri::methods::{Class, IMAGE_METHODS, IMAGE_SERVICE, RUNTIME_METHODS, RUNTIME_SERVICE};
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response};

use crate::support::client::{Answer, Client, request};
use crate::support::daemon::{Crivet, Place};
use crate::support::runtime::{Call, FakeRuntime, send_data};
use crate::support::{framed, noise, until};

const NEW_READ: &str = "/runtime.v1.RuntimeService/ListGhosts";
const NEW_WRITE: &str = "/runtime.v1.ImageService/SummonGhost";

fn table() -> Vec<(String, Class)> {
    let runtime = RUNTIME_METHODS.iter().map(|(name, class)| (format!("{RUNTIME_SERVICE}{name}"), *class));
    let image = IMAGE_METHODS.iter().map(|(name, class)| (format!("{IMAGE_SERVICE}{name}"), *class));
    let table: Vec<_> = runtime.chain(image).collect();
    assert_eq!(table.len(), 43);
    table
}

/// Each call's own: with and without a deadline, short and long messages.
fn sent(path: &str, number: usize) -> (Request<()>, Bytes) {
    let mut request = request(path);
    let headers = request.headers_mut();
    if number.is_multiple_of(2) {
        headers.insert("grpc-timeout", HeaderValue::from_str(&format!("{}m", 60_000 + number)).unwrap());
    }
    let trace = format!("00-4bf92f3577b34da6a3ce929d0e0e47{number:02x}-00f067aa0ba902b7-01");
    headers.insert("traceparent", HeaderValue::from_str(&trace).unwrap());
    headers.insert("tracestate", HeaderValue::from_static("a=1,b=2"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
    for value in ["c", "a", "b", "a"] {
        headers.append("x-repeated", HeaderValue::from_static(value));
    }
    headers.append("x-repeated-bin", HeaderValue::from_static("AAH/"));
    headers.append("x-repeated-bin", HeaderValue::from_static("AQ"));
    headers.insert("x-empty", HeaderValue::from_static(""));
    (request, framed(&noise(number as u64, [0, 1, 700, 70_000][number % 4])))
}

fn answered() -> (HeaderMap, Bytes, HeaderMap) {
    let mut head = HeaderMap::new();
    head.insert("content-type", HeaderValue::from_static("application/grpc"));
    head.append("x-answer", HeaderValue::from_static("2"));
    head.append("x-answer", HeaderValue::from_static("1"));
    head.insert("x-answer-bin", HeaderValue::from_static("/w"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("9"));
    trailers.insert("grpc-message", HeaderValue::from_static("so %C3%A9 not"));
    trailers.insert("grpc-status-details-bin", HeaderValue::from_static("CAkSAm5v"));
    trailers.append("x-trailer", HeaderValue::from_static("z"));
    trailers.append("x-trailer", HeaderValue::from_static("y"));
    (head, framed(&noise(4711, 40_000)), trailers)
}

async fn scripted(mut call: Call) {
    if call.read().await.is_err() {
        return;
    }
    let (head, data, trailers) = answered();
    let mut response = Response::new(());
    *response.headers_mut() = head;
    let mut stream = call.start_with(response);
    send_data(&mut stream, data).await.unwrap();
    stream.send_trailers(trailers).unwrap();
}

/// Sends one call and holds what arrived on either side to what was sent on the other.
async fn is_relayed_as_it_is(client: &Client, runtime: &FakeRuntime, path: &str, number: usize) {
    let (request, body) = sent(path, number);
    let headers = request.headers().clone();
    let before = runtime.seen().len();
    let Answer { head, data, trailers } = client.send(request, body.clone()).await.unwrap();
    let seen = runtime.seen();
    assert_eq!(seen.len(), before + 1, "{path}");
    let arrived = &seen[before];
    assert_eq!(arrived.head.method, "POST", "{path}");
    assert_eq!(arrived.head.uri.to_string(), format!("http://localhost{path}"));
    assert_eq!(arrived.head.headers, headers, "{path}");
    assert_eq!(arrived.data, body, "{path}");
    assert_eq!(arrived.trailers, None, "{path}");
    let (sent_head, sent_data, sent_trailers) = answered();
    assert_eq!(head.status, 200, "{path}");
    assert_eq!(head.headers, sent_head, "{path}");
    assert_eq!(data, sent_data, "{path}");
    assert_eq!(trailers, Some(sent_trailers), "{path}");
}

#[tokio::test]
async fn in_audit_mode_every_call_is_relayed_as_it_is() {
    let place = Place::new();
    let runtime = FakeRuntime::start(place.path(), scripted);
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let paths = table().into_iter().map(|(path, _)| path).chain([NEW_READ.into(), NEW_WRITE.into()]);
    for (number, path) in paths.enumerate() {
        is_relayed_as_it_is(&client, &runtime, &path, number).await;
    }
}

#[tokio::test]
async fn in_audit_mode_what_enforce_mode_refuses_unread_is_recorded() {
    const RESTORE: &str = "/runtime.v1.RuntimeService/RestorePod";
    let place = Place::new();
    let _runtime = FakeRuntime::start(place.path(), scripted);
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for path in [RESTORE, NEW_WRITE] {
        client.call(path, b"boo").await;
    }
    let log = || std::fs::read_to_string(place.path().join("audit.jsonl")).unwrap_or_default();
    let record = |kind: &str, path: &str| {
        log().lines().any(|line| {
            line.contains(&format!("\"kind\":\"{kind}\""))
                && line.contains(path)
                && line.contains("\"effective\":\"forwarded\"")
                && line.contains("\"reason\":\"CallNotVettable\"")
        })
    };
    until("both records", 20, || record("RestorePod", RESTORE) && record("Other", NEW_WRITE)).await;
    drop(crivet);
    // What is allowed is no news in either mode.
    std::fs::remove_file(place.path().join("audit.jsonl")).unwrap();
    let lines = "mode: audit\ninsecureAllowUnvetted: [RuntimeService/RestorePod]\n";
    let crivet = Crivet::serve(&place, lines).await;
    let client = crivet.client().await;
    for path in [RESTORE, NEW_WRITE] {
        client.call(path, b"boo").await;
    }
    until("the other's record", 20, || record("Other", NEW_WRITE)).await;
    assert!(!log().contains(RESTORE), "{}", log());
}

#[tokio::test]
async fn in_enforce_mode_every_call_is_treated_by_its_class() {
    let place = Place::new();
    let runtime = FakeRuntime::start(place.path(), scripted);
    let crivet = Crivet::enforce(&place).await;
    let client = crivet.client().await;
    let (mut relayed, mut refused) = (0, Vec::new());
    for (number, (path, class)) in table().into_iter().enumerate() {
        if let Class::Passthrough(_) = class {
            is_relayed_as_it_is(&client, &runtime, &path, number).await;
            relayed += 1;
            continue;
        }
        let answer = client.send(request(&path), framed(&[0xff; 64])).await.unwrap();
        assert_eq!(answer.code(), 2, "{path}");
        let message = answer.message();
        assert!(message.starts_with("SignatureValidationFailed: undecided: "), "{path}: {message}");
        let (_, name) = path.rsplit_once('/').unwrap();
        assert!(message.contains(name), "{path}: {message}");
        refused.push(name.to_owned());
    }
    assert_eq!(relayed, 39);
    assert_eq!(refused, ["RunPodSandbox", "CreateContainer", "RestorePod", "PullImage"]);
    is_relayed_as_it_is(&client, &runtime, NEW_READ, 90).await;
    let answer = client.call(NEW_WRITE, b"boo").await;
    assert_eq!(answer.code(), 12, "{}", answer.message());
    assert!(answer.message().contains(NEW_WRITE), "{}", answer.message());
    assert_eq!(runtime.seen().len(), relayed + 1);
}

#[tokio::test]
async fn services_that_are_not_the_cri_never_reach_the_runtime() {
    for mode in ["audit", "enforce"] {
        let place = Place::new();
        let runtime = FakeRuntime::echo(place.path());
        let crivet = Crivet::serve(&place, &format!("mode: {mode}\n")).await;
        let client = crivet.client().await;
        for path in [
            "/runtime.v1alpha2.RuntimeService/Version",
            "/runtime.v1alpha2.ImageService/PullImage",
            "/containerd.services.tasks.v1.Tasks/Create",
            "/containerd.services.images.v1.Images/List",
            "/containerd.services.content.v1.Content/Read",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/runtime.v1.RuntimeServices/Version",
        ] {
            let answer = client.call(path, b"x").await;
            assert_eq!(answer.code(), 12, "{mode} {path}");
            assert!(answer.is_trailers_only(), "{mode} {path}");
            assert!(answer.message().contains("crivet forwards runtime.v1 only"), "{}", answer.message());
        }
        assert_eq!(runtime.connections(), 0, "{mode}");
    }
}

#[tokio::test]
async fn each_service_goes_to_its_own_endpoint() {
    let place = Place::new();
    let images = Place::new();
    let (runtime, image) = (FakeRuntime::echo(place.path()), FakeRuntime::echo(images.path()));
    let lines = format!("mode: audit\nimageEndpoint: unix://{}\n", image.socket().display());
    let crivet = Crivet::serve(&place, &lines).await;
    let client = crivet.client().await;
    for (path, _) in table() {
        client.call(&path, b"x").await;
    }
    assert_eq!((runtime.seen().len(), image.seen().len()), (37, 6));
    assert!(image.seen_paths().iter().all(|path| path.starts_with(IMAGE_SERVICE)));
}

#[tokio::test]
async fn the_runtime_s_reset_codes_pass_as_they_are() {
    let place = Place::new();
    let _runtime = FakeRuntime::start(place.path(), |mut call| async move {
        let seen = call.read().await.unwrap();
        let [code, at] = seen.data[5..] else { panic!("{:?}", seen.data) };
        let reason = Reason::from(u32::from(code));
        if at == 0 {
            call.respond.send_reset(reason);
            return;
        }
        let mut stream = call.start();
        send_data(&mut stream, framed(b"half")).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        stream.send_reset(reason);
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let path = "/runtime.v1.RuntimeService/ExecSync";
    for at in [0, 1] {
        for reason in
            [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::STREAM_CLOSED]
        {
            let message = [u8::try_from(u32::from(reason)).unwrap(), at];
            let error = client.send(request(path), framed(&message)).await.unwrap_err();
            assert_eq!(crate::support::client::reset_reason(&error), reason, "at {at}");
        }
    }
}
