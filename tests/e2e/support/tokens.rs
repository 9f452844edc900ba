//! A token server as registries name one in `WWW-Authenticate`: it gives a token to who shows one name and password, by
//! either of the two ways to ask (the distribution project's token specification, and its OAuth2 variant).

use super::secured::file;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct TokenServer {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    login: (String, String),
    key: EcdsaKeyPair,
    certificate: String,
    tls: Arc<ServerConfig>,
    asked: Mutex<Vec<Asked>>,
}

/// One request for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET` with basic authentication, or `POST` with a form.
    pub method: String,
    pub scopes: Vec<String>,
    /// Whether name and password, or the refresh token, were the right ones.
    pub granted: bool,
}

impl TokenServer {
    pub const SERVICE: &str = "registry.e2e";
    pub const ISSUER: &str = "tokens.e2e";
    /// What stands for the password where a client has an identity token.
    pub const IDENTITY_TOKEN: &str = "e2e-identity-token";

    /// Starts it, with TLS by the private CA; it ends with the test's process.
    pub fn start(user: &str, password: &str) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(file("server.crt")).unwrap()],
                PrivateKeyDer::from_pem_file(file("server.key")).unwrap(),
            )
            .unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_file(file("token.key")).unwrap();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let certificate = CertificateDer::from_pem_file(file("token.crt")).unwrap();
        let shared = Arc::new(Shared {
            login: (user.to_owned(), password.to_owned()),
            key: EcdsaKeyPair::from_pkcs8(algorithm, key.secret_pkcs8_der(), &SystemRandom::new()).unwrap(),
            certificate: STANDARD.encode(&certificate),
            tls: Arc::new(tls),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that goes away, or does not trust the CA, ends its own connection alone.
                std::thread::spawn(move || shared.answer(stream));
            }
        });
        Self { port, shared }
    }

    /// The address for `WWW-Authenticate`.
    pub fn realm(&self) -> String {
        format!("https://127.0.0.1:{}/token", self.port)
    }

    /// The requests so far, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Shared {
    fn answer(&self, stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&self.tls)).unwrap(), stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.extend_from_slice(&byte);
        }
        let head = String::from_utf8(head).ok()?;
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        let length = field("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let mut first = head.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?);
        let query = if method == "POST" {
            String::from_utf8(body).ok()?
        } else {
            target.split_once('?').map_or("", |(_, query)| query).to_owned()
        };
        let (status, body) = self.reply(method, &query, field("authorization").as_deref());
        let text = body.to_string();
        let reply = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(reply.as_bytes()).ok()?;
        stream.conn.send_close_notify();
        stream.flush().ok()?;
        // The client closes: what it has not read yet would be lost with a reset.
        let _ = stream.sock.read(&mut [0]);
        Some(())
    }

    fn reply(&self, method: String, query: &str, authorization: Option<&str>) -> (&'static str, Value) {
        let parameters: Vec<_> =
            query.split('&').filter_map(|p| p.split_once('=')).map(|(n, v)| (n, decoded(v))).collect();
        let all = |name: &str| -> Vec<String> {
            let found = parameters.iter().filter(|(n, _)| *n == name).map(|(_, value)| value);
            found.flat_map(|value| value.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
        };
        let is = |name: &str, want: &str| parameters.iter().any(|(n, value)| *n == name && value == want);
        let (user, password) = &self.login;
        let granted = if method == "POST" {
            is("refresh_token", TokenServer::IDENTITY_TOKEN)
                || is("username", user) && is("password", password)
        } else {
            let basic = STANDARD.encode(format!("{user}:{password}"));
            authorization.is_some_and(|shown| shown == format!("Basic {basic}"))
        };
        let scopes = all("scope");
        self.asked.lock().unwrap().push(Asked { method, scopes: scopes.clone(), granted });
        if !granted {
            return ("401 Unauthorized", json!({"errors": [{"code": "UNAUTHORIZED"}]}));
        }
        let token = self.token(&scopes);
        ("200 OK", json!({"token": token, "access_token": token, "expires_in": 300}))
    }

    /// A token as docker-registry reads it: a JWT with its certificate in `x5c`.
    fn token(&self, scopes: &[String]) -> String {
        let access = scopes.iter().filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({"iss": TokenServer::ISSUER, "aud": TokenServer::SERVICE, "sub": self.login.0,
            "iat": now, "nbf": now - 10, "exp": now + 300, "jti": "1", "access": access.collect::<Vec<_>>()});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A value of a query or a form.
fn decoded(text: &str) -> String {
    let bytes = text.replace('+', " ").into_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap()
}
