//! A containers-policy.json(5) as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::policy::signers::Text;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub default: Spanned<Vec<WrittenRequirement>>,
    #[serde(default)]
    pub transports: BTreeMap<String, Spanned<Scopes>>,
}

/// A transport's lists of requirements, by scope.
pub(super) type Scopes = BTreeMap<String, Spanned<Vec<WrittenRequirement>>>;

/// The fields of all types of requirement; which go together is looked at afterwards.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenRequirement {
    pub r#type: Text,
    pub key_type: Option<Text>,
    pub key_path: Option<Text>,
    pub key_paths: Option<Vec<Text>>,
    pub key_data: Option<Text>,
    pub key_datas: Option<Vec<Text>>,
    pub fulcio: Option<Fulcio>,
    pub pki: Option<Pki>,
    pub rekor_public_key_path: Option<Text>,
    pub rekor_public_key_paths: Option<Vec<Text>>,
    pub rekor_public_key_data: Option<Text>,
    pub rekor_public_key_datas: Option<Vec<Text>>,
    pub signed_identity: Option<WrittenIdentity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Fulcio {
    pub ca_path: Option<Text>,
    pub ca_data: Option<Text>,
    #[serde(rename = "oidcIssuer")]
    pub issuer: Text,
    pub subject_email: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pki {
    pub ca_roots_path: Option<Text>,
    pub ca_roots_data: Option<Text>,
    pub ca_intermediates_path: Option<Text>,
    pub ca_intermediates_data: Option<Text>,
    pub subject_email: Option<Text>,
    pub subject_hostname: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenIdentity {
    pub r#type: Text,
    pub docker_reference: Option<Text>,
    pub docker_repository: Option<Text>,
    pub prefix: Option<Text>,
    pub signed_prefix: Option<Text>,
}

/// Keys, as they may be written.
pub(super) struct Ways<'a> {
    pub path: Option<&'a Text>,
    pub paths: Option<&'a Vec<Text>>,
    pub data: Option<&'a Text>,
    pub datas: Option<&'a Vec<Text>>,
}

impl WrittenRequirement {
    pub fn keys(&self) -> Ways<'_> {
        Ways {
            path: self.key_path.as_ref(),
            paths: self.key_paths.as_ref(),
            data: self.key_data.as_ref(),
            datas: self.key_datas.as_ref(),
        }
    }

    pub fn logs(&self) -> Ways<'_> {
        Ways {
            path: self.rekor_public_key_path.as_ref(),
            paths: self.rekor_public_key_paths.as_ref(),
            data: self.rekor_public_key_data.as_ref(),
            datas: self.rekor_public_key_datas.as_ref(),
        }
    }

    pub fn paths(&self) -> impl Iterator<Item = &Text> {
        let single = [&self.key_path, &self.rekor_public_key_path].into_iter().flatten();
        let lists = [&self.key_paths, &self.rekor_public_key_paths].into_iter().flatten().flatten();
        let fulcio = self.fulcio.iter().filter_map(|fulcio| fulcio.ca_path.as_ref());
        let pki = self.pki.iter().flat_map(|pki| [&pki.ca_roots_path, &pki.ca_intermediates_path]).flatten();
        single.chain(lists).chain(fulcio).chain(pki)
    }

    /// Whether nothing but the type is written.
    pub fn is_bare(&self) -> bool {
        let Self { key_type, fulcio, pki, signed_identity, .. } = self;
        let others = key_type.is_some() || fulcio.is_some() || pki.is_some() || signed_identity.is_some();
        !others && self.keys().are_none() && self.logs().are_none()
    }
}

impl Ways<'_> {
    fn are_none(&self) -> bool {
        matches!(self, Self { path: None, paths: None, data: None, datas: None })
    }
}
