//! The API server is asked as the kubelet asks it, over TLS with its certificate.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use crivet::node::api::{access, ask};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::fake::Fake;

pub const KUBECONFIG: &str = include_str!("../../fixtures/kubeconfig/kubelet.conf");
const CA: &[u8] = include_bytes!("../../fixtures/kubeconfig/ca.crt");
const SERVER: &[u8] = include_bytes!("../../fixtures/kubeconfig/server.crt");
const SERVER_KEY: &[u8] = include_bytes!("../../fixtures/kubeconfig/server.key");
const CLIENT: &str = include_str!("../../fixtures/kubeconfig/kubelet-client-current.pem");
const PATH: &str = "/etc/kubernetes/kubelet.conf";
const NODE: &str = r#"{"status":{"conditions":[
    {"type":"Ready","status":"True","lastHeartbeatTime":"2026-08-01T12:00:00Z"}]}}"#;

/// Puts the kubelet's kubeconfig and certificate where kubeadm does.
pub fn configure(fake: &Fake, kubeconfig: &str) {
    fake.write(PATH, kubeconfig);
    fake.write("/var/lib/kubelet/pki/kubelet-client-current.pem", CLIENT);
}

/// Answers one request of a client whose certificate it trusts; what it was asked is returned.
fn serve(status: &'static str) -> (u16, std::thread::JoinHandle<Option<String>>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(SERVER).unwrap()],
            PrivateKeyDer::from_pem_slice(SERVER_KEY).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            request.extend_from_slice(&byte);
        }
        let answer = format!("HTTP/1.0 {status}\r\nContent-Length: {}\r\n\r\n{NODE}", NODE.len());
        stream.write_all(answer.as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        // The client closes: what it has not read yet would be lost with a reset.
        let _ = stream.sock.read(&mut [0]);
        Some(String::from_utf8_lossy(&request).into_owned())
    });
    (port, server)
}

fn asked(status: &'static str, change: impl Fn(String) -> String) -> (Result<bool, String>, Option<String>) {
    let (port, server) = serve(status);
    let fake = Fake::new();
    configure(&fake, &change(KUBECONFIG.replace("PORT", &port.to_string())));
    let access = access(&fake, PATH.as_ref()).unwrap();
    let answer = ask(&access).map(|node| node.ready).map_err(|error| error.to_string());
    (answer, server.join().unwrap())
}

#[test]
fn the_node_is_asked_for_by_the_name_in_the_certificate() {
    let (answer, request) = asked("200 OK", |text| text);
    assert_eq!(answer, Ok(true));
    assert!(request.unwrap().starts_with("GET /api/v1/nodes/node-1 HTTP/1.0\r\n"));
    let (answer, _) = asked("403 Forbidden", |text| text);
    let error = answer.unwrap_err();
    assert!(error.contains("it answers 403 for Node node-1"), "{error}");
}

#[test]
fn a_server_of_another_authority_is_not_believed() {
    // The client's own certificate is no authority of the server's.
    let (answer, request) = asked("200 OK", |text| {
        let data = text.lines().find(|line| line.contains("certificate-authority-data")).unwrap().to_owned();
        text.replace(&data, "    certificate-authority: /var/lib/kubelet/pki/kubelet-client-current.pem")
    });
    assert!(answer.unwrap_err().contains("certificate") && request.is_none());
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_named() {
    let fake = Fake::new();
    let why = |text: &str| {
        configure(&fake, text);
        access(&fake, PATH.as_ref()).unwrap_err().to_string()
    };
    let exec = KUBECONFIG.split("    client-certificate:").next().unwrap().to_owned();
    assert!(why(&format!("{exec}    exec: {{command: aws}}\n")).contains("no client certificate"));
    assert!(why(&KUBECONFIG.replace("https:", "http:")).contains("expected server: https://"));
    assert!(why(&KUBECONFIG.replace("kubelet-client-current", "gone")).contains("is not there"));
    assert!(why("").contains("it is empty"));
    std::fs::remove_file(fake.at(PATH)).unwrap();
    let error = access(&fake, PATH.as_ref()).unwrap_err().to_string();
    assert!(error.contains("/etc/kubernetes/kubelet.conf: there is no such file"), "{error}");
}
