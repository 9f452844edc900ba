//! The metrics address over TCP.

use std::net::SocketAddr;

use crivet::metrics::{RelayMetrics, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = std::sync::Arc::new(RelayMetrics::default());
    metrics.vetter_restarted();
    tokio::spawn(serve(listener, move || {
        let page = metrics.render("crivet_from_elsewhere 1\n");
        async move { page }
    }));
    address
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn two_paths_are_answered_and_nothing_else() {
    let address = start().await;
    let page = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("application/openmetrics-text"), "{page}");
    assert!(page.contains("\ncrivet_vetter_restarts_total 1\n"), "{page}");
    assert!(page.ends_with("\ncrivet_from_elsewhere 1\n# EOF\n"), "{page}");
    for (request, status) in [
        ("GET /healthz HTTP/1.1", "200"),
        ("GET / HTTP/1.1", "404"),
        ("GET /metrics/../etc/passwd HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("DELETE /healthz HTTP/1.1", "405"),
        ("nonsense", "400"),
    ] {
        let answer = ask(address, &format!("{request}\r\nhost: x\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    let long = ask(address, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000))).await;
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 4"), "{long}");
}
