//! Credentials for a registry, as the CRI hands them over.

use std::fmt;
use std::hash::{Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

use super::host;
use crate::limits::CREDENTIAL_FIELD_BYTES;

/// Text that is wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a caller may show to one registry.
///
/// Equality and hash cover the secret: whatever was fetched with one credential is found again only with the
/// same one ("sharing stops at the credential").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// None.
    Anonymous,
    /// User name and password, shown to the registry (RFC 7617) or to its token endpoint.
    Basic {
        /// The user name.
        username: Secret,
        /// The password, often a token with a life of its own.
        password: Secret,
    },
    /// An OAuth2 refresh token, exchanged at the registry's token endpoint.
    IdentityToken(Secret),
    /// A bearer token, shown to the registry as it is.
    RegistryToken(Secret),
}

/// The fields of the CRI's `AuthConfig`, borrowed.
#[derive(Clone, Copy, Default)]
pub struct AuthFields<'a> {
    /// `username`
    pub username: &'a str,
    /// `password`
    pub password: &'a str,
    /// `auth`: base64 of `user:password`
    pub auth: &'a str,
    /// `server_address`: a host or a URL
    pub server_address: &'a str,
    /// `identity_token`
    pub identity_token: &'a str,
    /// `registry_token`
    pub registry_token: &'a str,
}

/// Why `AuthConfig` is no credential. No variant carries any of its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// A field is over `CREDENTIAL_FIELD_BYTES`.
    #[error(
        "the pull's auth.{0} is longer than the limit CREDENTIAL_FIELD_BYTES ({CREDENTIAL_FIELD_BYTES} bytes)"
    )]
    TooLong(&'static str),
    /// `auth` is not base64 of `user:password`.
    #[error("the pull's auth.auth is not base64 of user:password")]
    BadAuth,
}

impl Credential {
    /// The credential in a pull's `AuthConfig` for `registry` (`host[:port]`, as in the reference).
    ///
    /// Order as containerd's `ParseAuth`: user name, identity token, `auth`; then `registry_token`, which
    /// containerd leaves out. A `server_address` that names another host means the credential is not for this
    /// registry: the pull is then anonymous, as it is for containerd.
    ///
    /// # Errors
    /// A field over its limit, or an `auth` that does not decode.
    pub fn from_auth(fields: &AuthFields<'_>, registry: &str) -> Result<Self, CredentialError> {
        for (name, value) in [
            ("username", fields.username),
            ("password", fields.password),
            ("auth", fields.auth),
            ("server_address", fields.server_address),
            ("identity_token", fields.identity_token),
            ("registry_token", fields.registry_token),
        ] {
            if value.len() > CREDENTIAL_FIELD_BYTES {
                return Err(CredentialError::TooLong(name));
            }
        }
        if !fields.server_address.is_empty() && !host::same_registry(fields.server_address, registry) {
            return Ok(Self::Anonymous);
        }
        if !fields.username.is_empty() {
            return Ok(Self::basic(fields.username, fields.password));
        }
        if !fields.identity_token.is_empty() {
            return Ok(Self::IdentityToken(Secret::new(fields.identity_token)));
        }
        if !fields.auth.is_empty() {
            return Self::from_basic_auth(fields.auth);
        }
        if !fields.registry_token.is_empty() {
            return Ok(Self::RegistryToken(Secret::new(fields.registry_token)));
        }
        Ok(Self::Anonymous)
    }

    /// A user name and password.
    pub fn basic(username: &str, password: &str) -> Self {
        Self::Basic { username: Secret::new(username), password: Secret::new(password) }
    }

    /// The base64 `user:password` of a docker config or an `AuthConfig`. Line breaks in it are left out, as Go's decoder
    /// does for the kubelet and for containerd.
    pub(super) fn from_basic_auth(auth: &str) -> Result<Self, CredentialError> {
        let auth: Zeroizing<String> = Zeroizing::new(auth.chars().filter(|c| !"\r\n".contains(*c)).collect());
        let decoded = STANDARD
            .decode(auth.as_bytes())
            .or_else(|_| STANDARD_NO_PAD.decode(auth.as_bytes()))
            .map(Zeroizing::new)
            .map_err(|_| CredentialError::BadAuth)?;
        let text = std::str::from_utf8(&decoded).map_err(|_| CredentialError::BadAuth)?;
        let (username, password) = text.split_once(':').ok_or(CredentialError::BadAuth)?;
        // docker pads the password with NULs in some of its files; containerd trims them too.
        Ok(Self::basic(username, password.trim_matches('\0')))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    const REGISTRY: &str = "registry.example";

    #[test]
    fn each_field_becomes_its_own_kind() {
        let of = |fields| Credential::from_auth(&fields, REGISTRY).unwrap();
        let none = AuthFields::default();
        assert_eq!(of(none), Credential::Anonymous);
        assert_eq!(of(AuthFields { username: "u", password: "p", ..none }), Credential::basic("u", "p"));
        assert_eq!(of(AuthFields { auth: "dTpwOnc=", ..none }), Credential::basic("u", "p:w"));
        assert_eq!(of(AuthFields { auth: "dTpwOnc", ..none }), Credential::basic("u", "p:w"));
        assert_eq!(of(AuthFields { auth: "dTpw\nOnc=\n", ..none }), Credential::basic("u", "p:w"));
        assert_eq!(
            of(AuthFields { identity_token: "i", ..none }),
            Credential::IdentityToken(Secret::new("i"))
        );
        assert_eq!(
            of(AuthFields { registry_token: "r", ..none }),
            Credential::RegistryToken(Secret::new("r"))
        );
    }

    #[test]
    fn a_server_address_of_another_host_leaves_the_pull_anonymous() {
        let fields = AuthFields { username: "u", password: "p", ..AuthFields::default() };
        let with = |server_address, registry| {
            Credential::from_auth(&AuthFields { server_address, ..fields }, registry).unwrap()
        };
        for (server, registry) in [
            ("registry.example", REGISTRY),
            ("https://registry.example", REGISTRY),
            ("https://Registry.Example/v2/", REGISTRY),
            ("registry.example:5000", "registry.example:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
        ] {
            assert_eq!(with(server, registry), Credential::basic("u", "p"), "{server} {registry}");
        }
        for (server, registry) in [
            ("other.example", REGISTRY),
            ("registry.example:5000", REGISTRY),
            ("registry.example", "registry.example:5000"),
            ("https://registry.example@evil.example/", REGISTRY),
            ("registry.example.evil.example", REGISTRY),
            ("https://", REGISTRY),
            ("https://index.docker.io/v1/", REGISTRY),
        ] {
            assert_eq!(with(server, registry), Credential::Anonymous, "{server} {registry}");
        }
    }

    #[test]
    fn an_auth_without_colon_or_base64_is_an_error_without_its_text() {
        for auth in ["dXNlcg==", "%%%"] {
            let error = Credential::from_auth(&AuthFields { auth, ..AuthFields::default() }, REGISTRY);
            assert_eq!(error, Err(CredentialError::BadAuth));
        }
    }

    #[test]
    fn a_field_over_the_limit_names_the_limit() {
        let long = "x".repeat(CREDENTIAL_FIELD_BYTES + 1);
        let error = Credential::from_auth(&AuthFields { password: &long, ..AuthFields::default() }, REGISTRY);
        assert!(error.unwrap_err().to_string().contains("CREDENTIAL_FIELD_BYTES"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", Credential::basic("carol", "hunter2"));
        assert!(!shown.contains("hunter2") && !shown.contains("carol"), "{shown}");
    }
}
