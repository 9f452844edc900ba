//! Whether the API server calls this node Ready: asked with the kubelet's own kubeconfig, where that has a client
//! certificate. A cloud's login programs are not run.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::Deserialize;

use super::NodeError;
use super::host::{self, Host, parse_answer};
use crate::audit::from_rfc3339;
use crate::limits;
use crate::yaml;

/// The way to the API server as the kubelet.
#[derive(Debug, Clone)]
pub struct Access {
    /// `host` or `[host]`, and port.
    authority: String,
    server: ServerName<'static>,
    tls: Arc<ClientConfig>,
    /// The Node's name.
    pub node: String,
}

/// What the API server says of the Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The condition Ready is True.
    pub ready: bool,
    /// When the kubelet last said so, seconds since 1970.
    pub heartbeat: u64,
    /// Why it is not.
    pub message: String,
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

/// Reads a kubelet's kubeconfig. An error says why it cannot be used.
pub fn access(host: &dyn Host, path: &Path) -> Result<Access, NodeError> {
    let wrong =
        |why: &str| NodeError::NotThrough(format!("the API server is not asked: {}: {why}", path.display()));
    let text = host::read_text(host, path)?.ok_or_else(|| wrong("there is no such file"))?;
    let documents = yaml::documents(&text);
    let document = documents.first().ok_or_else(|| wrong("it is empty"))?;
    let config: Kubeconfig = document.read().map_err(|fault| wrong(&fault.text))?;
    // A kubelet's has one of each.
    let ([cluster], [user]) = (config.clusters.as_slice(), config.users.as_slice()) else {
        return Err(wrong("expected one cluster and one user"));
    };
    let (cluster, user) = (&cluster.cluster, &user.user);
    let bytes = |file: &Option<PathBuf>, data: &Option<String>| match (data, file) {
        (Some(data), _) => STANDARD.decode(data.trim()).map_err(|_| wrong("expected base64")),
        (None, Some(file)) => host::read(host, file)?.ok_or_else(|| wrong("a file it names is not there")),
        (None, None) => Err(wrong("it has no client certificate")),
    };
    let authorities = bytes(&cluster.certificate_authority, &cluster.certificate_authority_data)?;
    let certificate = bytes(&user.client_certificate, &user.client_certificate_data)?;
    let key = bytes(&user.client_key, &user.client_key_data)?;

    let certificates = |pem: &[u8]| {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        all.map_err(|_| wrong("expected certificates in PEM"))
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&authorities)?);
    let chain = certificates(&certificate)?;
    let node = chain.first().and_then(node_name);
    let node = node.ok_or_else(|| wrong("expected a certificate of system:node:…"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| wrong("expected a private key in PEM"))?;
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong(&error.to_string()))?;

    let server: http::Uri = cluster.server.parse().map_err(|_| wrong("expected server: https://…"))?;
    let (Some("https"), Some(name)) = (server.scheme_str(), server.host()) else {
        return Err(wrong("expected server: https://…"));
    };
    let authority = format!("{name}:{}", server.port_u16().unwrap_or(443));
    let name = name.trim_matches(['[', ']']).to_owned();
    let server = ServerName::try_from(name).map_err(|_| wrong("expected the server's name"))?;
    Ok(Access { authority, server, tls: Arc::new(tls), node })
}

/// The kubelet's certificate names its Node: `system:node:<name>` (Kubernetes, "Node authorization").
fn node_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let name = name.strip_prefix("system:node:")?;
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    (plain && !name.is_empty()).then(|| name.to_owned())
}

/// Asks the API server about the Node.
pub fn ask(access: &Access) -> Result<Ready, NodeError> {
    let failed =
        |why: String| NodeError::NotThrough(format!("the API server at {}: {why}", access.authority));
    let (status, body) = get(access).map_err(|error| failed(error.to_string()))?;
    if status != 200 {
        return Err(failed(format!("it answers {status} for Node {}", access.node)));
    }
    ready(&body).ok_or_else(|| failed("expected a Node with a condition Ready".to_owned()))
}

fn get(access: &Access) -> io::Result<(u16, String)> {
    let limit = Duration::from_secs(limits::NODE_HTTP_SECONDS);
    let address = access.authority.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let connection =
        ClientConnection::new(Arc::clone(&access.tls), access.server.clone()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let request = format!(
        "GET /api/v1/nodes/{} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\n\r\n",
        access.node, access.authority
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(limits::NODE_FILE_BYTES as u64).read_to_end(&mut bytes)?;
    parse_answer(&bytes)
}

fn ready(body: &str) -> Option<Ready> {
    let node: serde_json::Value = serde_json::from_str(body).ok()?;
    let conditions = node.get("status")?.get("conditions")?.as_array()?;
    let condition = conditions.iter().find(|c| c.get("type").is_some_and(|t| t == "Ready"))?;
    let text = |key: &str| condition.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    let heartbeat = from_rfc3339(text("lastHeartbeatTime"))?.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let message = crate::image::quoted(text("message"));
    Some(Ready { ready: text("status") == "True", heartbeat, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"{"kind":"Node","status":{"conditions":[
        {"type":"MemoryPressure","status":"False","lastHeartbeatTime":"2026-08-01T12:00:00Z"},
        {"type":"Ready","status":"True","lastHeartbeatTime":"2026-08-01T12:00:01Z","message":"kubelet is posting ready status"}]}}"#;

    #[test]
    fn the_condition_ready_is_read() {
        let read = ready(NODE).unwrap();
        assert!(read.ready && read.heartbeat == 1_785_585_601, "{read:?}");
        assert!(
            !ready(&NODE.replace("\"Ready\",\"status\":\"True\"", "\"Ready\",\"status\":\"Unknown\""))
                .unwrap()
                .ready
        );
        for (from, to) in [("\"Ready\"", "\"Steady\""), ("12:00:01Z", "noon"), ("conditions", "none")] {
            assert_eq!(ready(&NODE.replace(from, to)), None, "{to}");
        }
    }
}
