//! What a credential provider is asked, and what it answers (`credentialprovider.kubelet.k8s.io`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::limits::CREDENTIAL_FIELD_BYTES;
use crate::registry::{Credential, Secret};

/// For which other images an answer holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CacheKey {
    /// This repository.
    Image(String),
    /// All of this registry, `host[:port]`.
    Registry(String),
    /// All that the provider is asked about.
    Global,
}

impl CacheKey {
    /// The keys under which an answer about a repository may be kept, as the kubelet looks for them.
    pub fn of(repository: &str) -> [Self; 3] {
        let registry = repository.split('/').next().unwrap_or_default();
        [Self::Image(repository.to_owned()), Self::Registry(registry.to_owned()), Self::Global]
    }
}

/// A provider's answer.
#[derive(Debug)]
pub struct Answer {
    /// Logins by the location they are for. Those without name and password are left out.
    pub auth: Vec<(String, Credential)>,
    /// For what it holds.
    pub key: CacheKey,
    /// For how long; zero: for this question only; `None`: as the configuration says.
    pub cache_for: Option<Duration>,
}

/// Why an answer is of no use. None carries any of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// Not JSON of that form.
    #[error("expected a CredentialProviderResponse, found something else")]
    Form,
    /// Another version than it was asked in.
    #[error("expected an answer in the apiVersion it was asked in, found another")]
    Version,
    /// Not one of Image, Registry and Global.
    #[error("expected cacheKeyType Image, Registry or Global, found another")]
    CacheKeyType,
    /// Not a duration.
    #[error("expected a cacheDuration such as 1h0m0s, found something else")]
    CacheDuration,
    /// A name or password over the limit.
    #[error("a name or password is longer than the limit CREDENTIAL_FIELD_BYTES (32 KiB)")]
    TooLong,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    api_version: String,
    kind: String,
    #[serde(default)]
    cache_key_type: String,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Deserialize)]
struct Auth {
    username: Option<Secret>,
    password: Option<Secret>,
}

/// The question about a repository.
pub fn request(api_version: &str, repository: &str) -> Vec<u8> {
    serde_json::json!({"kind": "CredentialProviderRequest", "apiVersion": api_version, "image": repository})
        .to_string()
        .into_bytes()
}

impl Answer {
    /// Reads what a provider said to [`request`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8], api_version: &str, repository: &str) -> Result<Self, BadAnswer> {
        let written: Written = serde_json::from_slice(bytes).map_err(|_| BadAnswer::Form)?;
        if written.kind != "CredentialProviderResponse" {
            return Err(BadAnswer::Form);
        }
        if written.api_version != api_version {
            return Err(BadAnswer::Version);
        }
        let [image, registry, global] = CacheKey::of(repository);
        let key = match written.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry,
            "Global" => global,
            _ => return Err(BadAnswer::CacheKeyType),
        };
        let cache_for = match written.cache_duration.as_deref() {
            // The past is over: the kubelet does not find such an answer again.
            Some(negative) if negative.starts_with('-') => Some(Duration::ZERO),
            Some(text) => Some(duration(text).ok_or(BadAnswer::CacheDuration)?),
            None => None,
        };
        let mut auth = Vec::new();
        for (location, Auth { username, password }) in written.auth.unwrap_or_default() {
            let or_empty = |secret: Option<Secret>| secret.unwrap_or_else(|| Secret::new(""));
            let (username, password) = (or_empty(username), or_empty(password));
            if username.reveal().len().max(password.reveal().len()) > CREDENTIAL_FIELD_BYTES {
                return Err(BadAnswer::TooLong);
            }
            if !username.reveal().is_empty() || !password.reveal().is_empty() {
                auth.push((location, Credential::Basic { username, password }));
            }
        }
        Ok(Self { auth, key, cache_for })
    }
}

/// A duration as Go writes it: `12h0m0s`, `1.5h`, `300ms`, `0`. Not a negative one, nor one of more than a century.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    (seconds <= CENTURY).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const V1: &str = "credentialprovider.kubelet.k8s.io/v1";
    const VALID: &str = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType":"Registry","cacheDuration":"6h0m0s","auth":{"*.r.example":{"username":"u","password":"hunter2"}}}"#;

    fn read(json: &str) -> Result<Answer, BadAnswer> {
        Answer::read(json.as_bytes(), V1, "a.r.example:5000/team/app")
    }

    #[test]
    fn a_valid_answer_is_read() {
        let answer = read(VALID).unwrap();
        assert_eq!(answer.auth, [("*.r.example".to_owned(), Credential::basic("u", "hunter2"))]);
        assert_eq!(answer.key, CacheKey::Registry("a.r.example:5000".to_owned()));
        assert_eq!(answer.cache_for, Some(Duration::from_secs(6 * 3600)));
        let key = |name: &str| read(&VALID.replace("Registry", name)).unwrap().key;
        assert_eq!(key("Image"), CacheKey::Image("a.r.example:5000/team/app".to_owned()));
        assert_eq!(key("Global"), CacheKey::Global);
        let without = VALID.replace(r#""cacheDuration":"6h0m0s","#, "");
        assert_eq!(read(&without).unwrap().cache_for, None);
        assert_eq!(read(&VALID.replace("6h0m0s", "-1s")).unwrap().cache_for, Some(Duration::ZERO));
    }

    #[test]
    fn an_answer_without_logins_is_one() {
        for auth in ["null", "{}", r#"{"r.example":{"username":"","password":""}}"#] {
            let json = format!(
                r#"{{"kind":"CredentialProviderResponse","apiVersion":"{V1}","cacheKeyType":"Image","auth":{auth}}}"#
            );
            assert!(read(&json).unwrap().auth.is_empty(), "{auth}");
        }
    }

    #[test]
    fn each_break_of_a_valid_answer_is_told_without_its_text() {
        for (from, to, expected) in [
            ("{", "", BadAnswer::Form),
            ("CredentialProviderResponse", "Status", BadAnswer::Form),
            ("k8s.io/v1", "k8s.io/v1beta1", BadAnswer::Version),
            ("Registry", "registry", BadAnswer::CacheKeyType),
            (r#""cacheKeyType":"Registry","#, "", BadAnswer::CacheKeyType),
            ("6h0m0s", "6", BadAnswer::CacheDuration),
            (r#""hunter2""#, "7", BadAnswer::Form),
        ] {
            assert_eq!(read(&VALID.replacen(from, to, 1)).unwrap_err(), expected, "{from}");
        }
        assert_eq!(read(&VALID.replace("hunter2", &"x".repeat(40_000))).unwrap_err(), BadAnswer::TooLong);
    }

    #[test]
    fn the_question_is_the_kubelets() {
        let asked: serde_json::Value = serde_json::from_slice(&request(V1, "r.example/app")).unwrap();
        let expected = serde_json::json!({"kind": "CredentialProviderRequest", "apiVersion": V1, "image": "r.example/app"});
        assert_eq!(asked, expected);
    }

    #[test]
    fn durations_are_gos() {
        for (text, seconds) in [
            ("12h0m0s", 43_200.0),
            ("1.5h", 5400.0),
            ("300ms", 0.3),
            ("0", 0.0),
            ("0s", 0.0),
            ("+5m", 300.0),
            ("1h.5m", 3630.0),
            ("1us", 1e-6),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in [
            "",
            "5",
            "-5s",
            "5 s",
            "h",
            "1d",
            "1h 5m",
            "..5s",
            ".",
            "1e9h",
            "99999999999999999h",
            "inf s",
            "nans",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
