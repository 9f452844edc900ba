//! The kubelet's `CredentialProviderConfig` (`--image-credential-provider-config`), in all versions that it has.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

use super::provider::duration;
use crate::image::quoted;
use crate::registry::Secret;
use crate::yaml::{self, Fault};

/// One credential provider: a program, and the images it is asked about.
#[derive(Clone, PartialEq, Eq)]
pub struct Provider {
    /// The program's name in the folder of providers.
    pub name: String,
    /// Locations as [`super::matches`] takes them.
    pub match_images: Vec<String>,
    /// How long an answer is used that does not say.
    pub default_cache_duration: Duration,
    /// Of request and answer: `credentialprovider.kubelet.k8s.io/v1`, `v1beta1` or `v1alpha1`.
    pub api_version: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// Its environment, beside what all get.
    pub env: Vec<(String, Secret)>,
    /// It works with a token of the pod's service account, which only the kubelet can have.
    pub needs_token: bool,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider {}", self.name)
    }
}

#[derive(Deserialize)]
enum ApiVersion {
    #[serde(rename = "kubelet.config.k8s.io/v1")]
    V1,
    #[serde(rename = "kubelet.config.k8s.io/v1beta1")]
    V1Beta1,
    #[serde(rename = "kubelet.config.k8s.io/v1alpha1")]
    V1Alpha1,
}

#[derive(Deserialize)]
enum Kind {
    CredentialProviderConfig,
}

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    providers: Vec<WrittenProvider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenProvider {
    name: Text,
    match_images: Vec<String>,
    default_cache_duration: Text,
    api_version: Text,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    token_attributes: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: Secret,
}

/// Reads one file. As the kubelet, which does not start with a bad one: one fault, and none of its providers counts.
///
/// # Errors
/// What is wrong, and on which line.
pub fn read(bytes: &[u8]) -> Result<Vec<Provider>, Fault> {
    let at_start = |text: String| Fault { line: 1, text };
    let text = std::str::from_utf8(bytes).map_err(|_| at_start("expected UTF-8 text".to_owned()))?;
    let documents = yaml::documents(text);
    let [document] = documents.as_slice() else {
        let found = documents.len();
        return Err(at_start(format!("expected one CredentialProviderConfig document, found {found}")));
    };
    let written: Written = document.read().map_err(|fault| {
        // Others of the reader's words repeat values, and a value may be a secret.
        let about_keys =
            ["missing field", "unknown field", "duplicate"].iter().any(|m| fault.text.starts_with(m));
        let text = if about_keys {
            fault.text
        } else {
            "expected what CredentialProviderConfig has there".to_owned()
        };
        Fault { text, ..fault }
    })?;
    let mut providers = Vec::<Provider>::new();
    for provider in written.providers {
        let fault = |at: &Text, why: &str| {
            document.fault_at(at, format!("provider {}: {why}", quoted(&provider.name.value)))
        };
        let name = &provider.name.value;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ', '\0']) {
            return Err(fault(&provider.name, "expected the name of a file in the folder of providers"));
        }
        if providers.iter().any(|known| known.name == *name) {
            return Err(fault(&provider.name, "expected each name once"));
        }
        if provider.match_images.is_empty() {
            return Err(fault(&provider.name, "expected at least one of matchImages"));
        }
        let version = &provider.api_version.value;
        if !["v1", "v1beta1", "v1alpha1"]
            .iter()
            .any(|v| *version == format!("credentialprovider.kubelet.k8s.io/{v}"))
        {
            return Err(fault(
                &provider.api_version,
                "expected apiVersion credentialprovider.kubelet.k8s.io/v1",
            ));
        }
        let at = &provider.default_cache_duration;
        let Some(default_cache_duration) = duration(&at.value) else {
            return Err(fault(at, "defaultCacheDuration: expected a duration such as 12h0m0s"));
        };
        let env = provider.env.unwrap_or_default();
        if env.iter().any(|v| v.name.is_empty() || v.name.contains(['=', '\0'])) {
            return Err(fault(&provider.name, "env: expected names of environment variables"));
        }
        providers.push(Provider {
            name: name.clone(),
            match_images: provider.match_images,
            default_cache_duration,
            api_version: version.clone(),
            args: provider.args.unwrap_or_default(),
            env: env.into_iter().map(|variable| (variable.name, variable.value)).collect(),
            needs_token: provider.token_attributes.is_some(),
        });
    }
    if providers.is_empty() {
        return Err(at_start("expected at least one provider".to_owned()));
    }
    Ok(providers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const VALID: &str = "\
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: ecr-credential-provider
  matchImages:
  - \"*.dkr.ecr.*.amazonaws.com\"
  defaultCacheDuration: 12h
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [get-credentials]
  env:
  - name: AWS_PROFILE
    value: hunter2
";

    fn error(text: &str) -> String {
        let Fault { line, text } = read(text.as_bytes()).unwrap_err();
        format!("{line}: {text}")
    }

    #[test]
    fn every_field_is_read() {
        let [provider] = read(VALID.as_bytes()).unwrap().try_into().unwrap();
        assert_eq!(provider.name, "ecr-credential-provider");
        assert_eq!(provider.match_images, ["*.dkr.ecr.*.amazonaws.com"]);
        assert_eq!(provider.default_cache_duration, Duration::from_secs(12 * 3600));
        assert_eq!(provider.api_version, "credentialprovider.kubelet.k8s.io/v1");
        assert_eq!(
            (provider.args.as_slice(), provider.needs_token),
            (["get-credentials".to_owned()].as_slice(), false)
        );
        assert_eq!(provider.env, [("AWS_PROFILE".to_owned(), Secret::new("hunter2"))]);
    }

    #[test]
    fn all_versions_of_file_and_protocol_are_read_also_as_json() {
        for version in ["v1", "v1beta1", "v1alpha1"] {
            assert!(read(VALID.replace("io/v1", &format!("io/{version}")).as_bytes()).is_ok(), "{version}");
        }
        let json =
            br#"{"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [
            {"name": "p", "matchImages": ["r.example"], "defaultCacheDuration": "0s", "args": null,
             "apiVersion": "credentialprovider.kubelet.k8s.io/v1"}]}"#;
        assert_eq!(read(json).unwrap()[0].name, "p");
    }

    #[test]
    fn a_provider_that_wants_the_pods_token_is_marked() {
        let with = format!(
            "{VALID}  tokenAttributes:\n    serviceAccountTokenAudience: x\n    cacheType: Token\n    requireServiceAccount: true\n"
        );
        assert!(read(with.as_bytes()).unwrap()[0].needs_token);
    }

    #[test]
    fn each_break_is_told_with_its_line_and_without_values() {
        for (from, to, expected) in [
            ("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v2", "1: "),
            ("CredentialProviderConfig", "KubeletConfiguration", "2: "),
            ("providers:", "provider:", "3: unknown field `provider`"),
            (
                "name: ecr-credential-provider",
                "name: ../sh",
                "4: provider \"../sh\": expected the name of a file",
            ),
            ("  matchImages:\n  - \"*.dkr.ecr.*.amazonaws.com\"\n", "", "missing field `matchImages`"),
            (
                "  matchImages:\n  - \"*.dkr.ecr.*.amazonaws.com\"\n",
                "  matchImages: []\n",
                "expected at least one of matchImages",
            ),
            ("  defaultCacheDuration: 12h\n", "", "missing field `defaultCacheDuration`"),
            ("12h", "-1s", "7: provider \"ecr-credential-provider\": defaultCacheDuration: expected"),
            ("12h", "12", "defaultCacheDuration: expected"),
            ("credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v2", "8: "),
            ("  args:", "  command: x\n  args:", "unknown field `command`"),
            ("value: hunter2", "value: [hunter2]", "expected what CredentialProviderConfig has there"),
            ("AWS_PROFILE", "A=B", "env: expected names"),
            ("kind:", "---\nkind:", "expected one CredentialProviderConfig document, found 2"),
        ] {
            assert!(VALID.contains(from), "{from}");
            let error = error(&VALID.replacen(from, to, 1));
            assert!(error.contains(expected) && !error.contains("hunter2"), "{to}: {error}");
        }
        let twice = VALID.replace("providers:\n", "providers:\n- {name: p, matchImages: [a.example], defaultCacheDuration: 0s, apiVersion: credentialprovider.kubelet.k8s.io/v1}\n");
        assert_eq!(read(twice.as_bytes()).unwrap().len(), 2);
        assert!(error(&twice.replace("ecr-credential-provider", "p")).contains("expected each name once"));
        assert!(
            error("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: []\n")
                .contains("at least one provider")
        );
    }
}
