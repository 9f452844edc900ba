//! docker-registry behind TLS of a private CA, with tokens or with client certificates. Its content is that of a plain
//! registry, which is the way to put something into it.

use super::daemon::Daemon;
use super::peers::Peers;
use super::registry::Registry;
use super::tokens::TokenServer;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Secured {
    daemon: Daemon,
    address: String,
}

/// A file of `tests/fixtures/registry`: `ca.crt`, `client.crt`, `client.key` and so on.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/registry").join(name)
}

impl Secured {
    /// Who calls has to show a token of that server.
    pub fn with_tokens(peers: &Peers, content: &Registry, tokens: &TokenServer) -> Self {
        let auth = format!(
            "auth: {{token: {{realm: '{}', service: {}, issuer: {}, rootcertbundle: {}}}}}\n",
            tokens.realm(),
            TokenServer::SERVICE,
            TokenServer::ISSUER,
            file("token.crt").display()
        );
        Self::start(peers, content, &auth, "")
    }

    /// Who calls has to show a certificate by the same CA.
    pub fn with_client_certificates(peers: &Peers, content: &Registry) -> Self {
        Self::start(peers, content, "", &format!(", clientcas: [{}]", file("ca.crt").display()))
    }

    fn start(peers: &Peers, content: &Registry, auth: &str, tls: &str) -> Self {
        let address = format!("127.0.0.1:{}", super::free_port());
        let config = peers.path().join(format!("secured-{}.yml", address.replace(':', "-")));
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '{address}', tls: {{certificate: {}, key: {}{tls}}}}}\n{auth}",
            content.storage().display(),
            file("server.crt").display(),
            file("server.key").display(),
        );
        std::fs::write(&config, text).unwrap();
        let name = format!("secured-{address}");
        let arguments = ["serve".as_ref(), config.as_os_str()];
        let mut daemon = Daemon::start(peers, &name, &peers.program("docker-registry"), arguments, &[]);
        // What it wants to see first does not matter here: it listens.
        daemon.wait_ready(Duration::from_secs(20), || std::net::TcpStream::connect(&address).is_ok());
        Self { daemon, address }
    }

    /// `127.0.0.1:<port>`: what an image reference starts with.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All that it has logged, requests included.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
