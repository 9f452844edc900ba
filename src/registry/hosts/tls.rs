//! TLS towards one host: the system's CAs and its own, its client certificates, or no checking at all.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// CA certificates and client certificates of one host, read and checked.
pub(in crate::registry) struct Material {
    /// SHA-256 of the files' bytes: what is equal shares connections.
    pub(in crate::registry) id: [u8; 32],
    cas: Vec<CertificateDer<'static>>,
    clients: Vec<Arc<CertifiedKey>>,
}

/// Files as they were read.
#[derive(Default)]
pub(super) struct Files {
    /// CA certificates, PEM.
    pub(super) cas: Vec<Vec<u8>>,
    /// Client certificates with their keys, PEM.
    pub(super) clients: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Material {
    /// # Errors
    /// What is wrong, without the file's name.
    pub(super) fn read(files: &Files) -> Result<Self, &'static str> {
        let mut hash = Sha256::new();
        let clients = files.clients.iter().flat_map(|(certificate, key)| [certificate, key]);
        for bytes in files.cas.iter().chain(clients) {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
        // Equal bytes in another role are something else.
        hash.update((files.cas.len() as u64).to_be_bytes());
        let mut cas = Vec::new();
        for pem in &files.cas {
            cas.extend(certificates(pem).ok_or("expected CA certificates as PEM")?);
        }
        let mut store = RootCertStore::empty();
        for ca in &cas {
            store.add(ca.clone()).map_err(|_| "expected CA certificates that can be read")?;
        }
        let provider = rustls::crypto::ring::default_provider();
        let mut clients = Vec::new();
        for (certificate, key) in &files.clients {
            let chain = certificates(certificate).ok_or("expected a client certificate as PEM")?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| "expected an unencrypted private key as PEM with the client certificate")?;
            let pair = CertifiedKey::from_der(chain, key, &provider)
                .map_err(|_| "expected the key of the client certificate, found another one")?;
            clients.push(Arc::new(pair));
        }
        Ok(Self { id: hash.finalize().into(), cas, clients })
    }
}

/// All certificates of a file; `None` if there is none or one that is broken.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

/// The system's CAs. A node without any is no error: each https registry then fails by name.
pub(in crate::registry) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let error = found.errors.first().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%error, "no CA certificates on this node: no https registry of a public CA can be reached");
    }
    roots
}

/// A configuration for TLS 1.2 and 1.3. Client certificates are shown only where `to_host`: to the host that they are
/// for, and not to where it sends us.
///
/// # Errors
/// The back end lacks what TLS needs.
pub(in crate::registry) fn client_config(
    roots: &RootCertStore,
    material: Option<&Material>,
    skip_verify: bool,
    to_host: bool,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = if skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    } else {
        let mut roots = roots.clone();
        if let Some(material) = material {
            roots.add_parsable_certificates(material.cas.iter().cloned());
        }
        if roots.is_empty() {
            // The verifier cannot be made without any: then nobody is trusted.
            builder.with_root_certificates(roots)
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_webpki_verifier(verifier)
        }
    };
    let clients = material.filter(|_| to_host).map(|material| material.clients.clone()).unwrap_or_default();
    if clients.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    Ok(builder.with_client_cert_resolver(Arc::new(Clients(clients))))
}

/// Client certificates, of which a server gets the first one that it says it would take.
#[derive(Debug)]
struct Clients(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Clients {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let of_issuer = |pair: &CertifiedKey| {
            issuers.is_empty()
                || pair.cert.iter().any(|certificate| {
                    X509Certificate::from_der(certificate)
                        .is_ok_and(|(_, read)| issuers.contains(&read.issuer().as_raw()))
                })
        };
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some() && of_issuer(pair);
        self.0.iter().find(fits).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any certificate, as `skip_verify` and `insecure` ask for. That the server has its key is still checked.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
