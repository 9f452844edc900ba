//! docker's `config.json`, and the older `.dockercfg`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::keyring::{Keyring, Login};
use crate::image::quoted;
use crate::limits::CREDENTIAL_FIELD_BYTES;
use crate::registry::{Credential, Secret};

/// The logins of one file.
#[derive(Debug, Default)]
pub struct DockerConfig {
    /// By location.
    pub keyring: Keyring,
    /// What was left out, and why; one line each, without secrets.
    pub left_out: Vec<String>,
}

/// The file is not JSON of that form. Where, but not what was found there: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: expected {expected}, found something else")]
pub struct DockerConfigError {
    line: usize,
    column: usize,
    expected: &'static str,
}

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<IgnoredAny>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: Option<IgnoredAny>,
}

/// Names as docker's `AuthConfig` (cli/config/types) has them.
#[derive(Deserialize)]
struct Entry {
    auth: Option<Secret>,
    username: Option<Secret>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
    registrytoken: Option<Secret>,
}

/// Why an entry is no login.
enum NoLogin {
    Empty,
    Bad(&'static str),
}

impl DockerConfig {
    /// Reads a `config.json`; of `legacy` form, a `.dockercfg`. `source` names it in messages.
    ///
    /// # Errors
    /// It is no JSON of that form. An entry that is no login is left out, and told.
    pub fn read(bytes: &[u8], legacy: bool, source: &Arc<str>) -> Result<Self, DockerConfigError> {
        let json = if legacy {
            parse(bytes, "a .dockercfg: an object of logins by registry").map(|auths| Json {
                auths: Some(auths),
                creds_store: None,
                cred_helpers: None,
            })
        } else {
            parse(bytes, "a docker config.json, an object with auths")
        }?;
        let mut config = Self::default();
        for (location, entry) in json.auths.unwrap_or_default() {
            // Nobody's login belongs there, and it is not repeated.
            let shown = if location.contains('@') { "a name with @".to_owned() } else { quoted(&location) };
            match entry.credential() {
                Ok(credential) => {
                    if !config.keyring.add(&location, Login { credential, source: Arc::clone(source) }) {
                        config.left_out.push(format!("{shown} is no registry"));
                    }
                }
                // docker writes one for each registry whose login is with a helper.
                Err(NoLogin::Empty) => {}
                Err(NoLogin::Bad(why)) => config.left_out.push(format!("{shown}: {why}")),
            }
        }
        if json.creds_store.is_some() || json.cred_helpers.is_some() {
            let text = "credsStore and credHelpers are not run; write the logins into auths, or use a credential provider";
            config.left_out.push(text.to_owned());
        }
        Ok(config)
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], expected: &'static str) -> Result<T, DockerConfigError> {
    serde_json::from_slice(bytes).map_err(|error| DockerConfigError {
        line: error.line(),
        column: error.column(),
        expected,
    })
}

impl Entry {
    /// Tokens before a password, as docker's client has it; `auth` before `username` and `password`, as the kubelet has
    /// it. The kubelet itself knows no tokens here.
    fn credential(self) -> Result<Credential, NoLogin> {
        let given = |field: &Option<Secret>| field.clone().filter(|secret| !secret.reveal().is_empty());
        let fields = [&self.auth, &self.username, &self.password, &self.identitytoken, &self.registrytoken];
        let long = |field: &&Option<Secret>| {
            field.as_ref().is_some_and(|secret| secret.reveal().len() > CREDENTIAL_FIELD_BYTES)
        };
        if fields.iter().any(long) {
            return Err(NoLogin::Bad("a field is longer than the limit CREDENTIAL_FIELD_BYTES (32 KiB)"));
        }
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Credential::RegistryToken(token));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Credential::IdentityToken(token));
        }
        if let Some(auth) = given(&self.auth) {
            return Credential::from_basic_auth(auth.reveal())
                .map_err(|_| NoLogin::Bad("auth is not base64 of user:password"));
        }
        match (given(&self.username), given(&self.password)) {
            (None, None) => Err(NoLogin::Empty),
            (username, password) => {
                let or_empty = |secret: Option<Secret>| secret.unwrap_or_else(|| Secret::new(""));
                Ok(Credential::Basic { username: or_empty(username), password: or_empty(password) })
            }
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<DockerConfig, DockerConfigError> {
        DockerConfig::read(json.as_bytes(), false, &"config.json".into())
    }

    fn entry(json: &str) -> Option<Credential> {
        let config = read(&format!(r#"{{"auths": {{"r.example": {json}}}}}"#)).unwrap();
        config.keyring.lookup("r.example/app").first().map(|login| login.credential.clone())
    }

    #[test]
    fn each_form_of_a_login_is_read() {
        let basic = || Some(Credential::basic("foo", "bar"));
        let secret = |text: &str| Secret::new(text);
        for (json, expected) in [
            (r#"{"username": "foo", "password": "bar", "email": "foo@example.com"}"#, basic()),
            (r#"{"auth": "Zm9vOmJhcg==", "email": "foo@example.com"}"#, basic()),
            (r#"{"auth": "Zm9vOmJhcg"}"#, basic()),
            (r#"{"auth": "Zm9vOm\nJhcg==\n"}"#, basic()),
            (r#"{"username": "x", "password": "y", "auth": "Zm9vOmJhcg=="}"#, basic()),
            (r#"{"username": "foo", "password": "bar", "auth": null}"#, basic()),
            (
                r#"{"auth": "Zm9vOmJhcg==", "identitytoken": "i"}"#,
                Some(Credential::IdentityToken(secret("i"))),
            ),
            (r#"{"identitytoken": "i", "registrytoken": "r"}"#, Some(Credential::RegistryToken(secret("r")))),
            (r#"{"username": "foo"}"#, Some(Credential::basic("foo", ""))),
            ("{}", None),
            (r#"{"username": "", "password": ""}"#, None),
        ] {
            assert_eq!(entry(json), expected, "{json}");
        }
    }

    #[test]
    fn a_bad_entry_is_left_out_and_the_others_stay() {
        for bad in [r#"{"auth": "cGFudHM="}"#, r#"{"auth": "pants"}"#, r#"{"auth": "Zm9vOmJhcg== "}"#] {
            let json = format!(
                r#"{{"auths": {{"bad.example": {bad}, "good.example": {{"auth": "Zm9vOmJhcg=="}}}}}}"#
            );
            let config = read(&json).unwrap();
            assert!(config.keyring.lookup("bad.example/app").is_empty());
            assert_eq!(config.keyring.lookup("good.example/app").len(), 1);
            assert_eq!(config.left_out, [r#""bad.example": auth is not base64 of user:password"#]);
        }
        let long = format!(r#"{{"auths": {{"r.example": {{"identitytoken": "{}"}}}}}}"#, "x".repeat(40_000));
        assert!(read(&long).unwrap().left_out[0].contains("CREDENTIAL_FIELD_BYTES"));
        let nowhere = read(r#"{"auths": {"u:hunter2@r.example": {"username": "u"}}}"#).unwrap();
        assert_eq!(nowhere.left_out, ["a name with @ is no registry"]);
    }

    #[test]
    fn helpers_are_not_run_and_said_so() {
        for helper in [r#""credsStore": "desktop""#, r#""credHelpers": {"r.example": "ecr-login"}"#] {
            let config = read(&format!(r#"{{"auths": {{"r.example": {{}}}}, {helper}}}"#)).unwrap();
            assert!(config.keyring.lookup("r.example/app").is_empty());
            assert!(config.left_out[0].contains("are not run"), "{:?}", config.left_out);
        }
    }

    #[test]
    fn the_older_form_is_read_where_it_is_expected() {
        let legacy = br#"{"https://r.example": {"auth": "Zm9vOmJhcg==", "email": "x"}}"#;
        let config = DockerConfig::read(legacy, true, &".dockercfg".into()).unwrap();
        assert_eq!(config.keyring.lookup("r.example/app")[0].credential, Credential::basic("foo", "bar"));
        assert!(
            read(std::str::from_utf8(legacy).unwrap()).unwrap().keyring.lookup("r.example/app").is_empty()
        );
    }

    #[test]
    fn a_broken_file_is_told_by_place_and_without_its_text() {
        for json in [
            r#"{"auths": {"r.example": {"auth": "hunter2", "password": 7}}}"#,
            r#"{"auths": "hunter2"}"#,
            "hunter2",
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.starts_with("line 1, column ") && !error.contains("hunter2"), "{error}");
        }
        assert!(read(r#"{"auths": null, "HttpHeaders": {}}"#).unwrap().left_out.is_empty());
    }
}
