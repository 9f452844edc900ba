//! Lists of referrers (OCI distribution spec v1.1, "Listing Referrers"): by the API, else by the fallback tag.

use std::collections::BTreeMap;

use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;
use tokio::time::Instant;

use super::ask::{At, Call, Query};
use super::client::{Client, MANIFEST_TYPES, manifest_path};
use super::credential::Credential;
use super::error::{Cause, FetchError, Violation};
use super::hosts::Operation;
use super::transport::{Answer, Cap};
use crate::image::manifest::Descriptor;
use crate::image::{Digest, Reference, json};
use crate::limits::{MANIFEST_BYTES, REFERRER_ANNOTATION_BYTES, REFERRER_PAGES, REFERRERS};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// What refers to a digest, as a registry lists it: nothing of it is proven. Whoever takes one over has to see that its
/// manifest names the digest as its subject.
#[derive(Clone, Debug, Default)]
pub struct Referrers {
    /// In the registry's order. Types and annotations are hints: cosign's own signatures stand in the fallback index
    /// with another type than they have.
    pub found: Vec<Descriptor>,
    /// Why there may be more.
    pub incomplete: Option<FetchError>,
}

/// A host's list, or a part of it.
struct List {
    found: Vec<Descriptor>,
    incomplete: Option<Cause>,
}

impl Client {
    /// What refers to `digest` in `repo`. With `heads_first` the fallback tag is
    /// looked at by HEAD before GET, which registries count. Of the hosts that serve the image the first one that lists any
    /// counts. Without any, the list is empty only if every host says so.
    ///
    /// # Errors
    /// No host lists any, and not every one could be asked; see [`Cause`].
    pub async fn referrers(
        &self,
        repo: &Reference,
        digest: &Digest,
        heads_first: bool,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Referrers, FetchError> {
        let call =
            Call::new("referrers", repo, &format!("@{digest}"), Operation::Evidence, credential, deadline);
        let hosts = self.hosts(&call)?;
        let mut round = self.round(&call, &hosts);
        for (number, host) in hosts.iter().enumerate() {
            let at = match self.at(&call, host, number + 1 == hosts.len()) {
                Ok(at) => at,
                Err(cause) => {
                    round.failed_at(host, cause);
                    continue;
                }
            };
            let cause = match self.list(&at, digest, heads_first).await {
                Ok(List { found, incomplete: None }) if found.is_empty() => {
                    Cause::NotFound(Default::default())
                }
                Ok(List { found, incomplete: Some(cause) }) if found.is_empty() => cause,
                Ok(List { found, incomplete }) => {
                    let incomplete = incomplete.map(|cause| call.failed(cause));
                    return Ok(Referrers { found, incomplete });
                }
                Err(cause) => cause,
            };
            self.rest(&at, &cause);
            round.failed_at(host, cause);
        }
        let error = round.end();
        if error.is_not_found() { Ok(Referrers::default()) } else { Err(error) }
    }

    async fn list(&self, at: &At<'_>, digest: &Digest, heads_first: bool) -> Result<List, Cause> {
        let path = format!("referrers/{digest}");
        let query = Query { accept: Some(INDEX_TYPE), ..Query::get(&path, Cap::MANIFEST) };
        let first = self.get_any(at, &query).await?;
        if !has_the_api(&first)? {
            return self.list_by_tag(at, digest, heads_first).await;
        }
        let (mut found, mut page) = (read(&first)?, first);
        for _ in 1..REFERRER_PAGES {
            if found.len() > REFERRERS {
                found.truncate(REFERRERS);
                let cause = Cause::TooMany { what: "referrers", limit: "REFERRERS", most: REFERRERS };
                return Ok(List { found, incomplete: Some(cause) });
            }
            let next = match next(&page.headers, &page.asked) {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(List { found, incomplete: None }),
                Err(cause) => return Ok(List { found, incomplete: Some(cause) }),
            };
            let part = self.get_page(at, &query, next).await.and_then(|answer| Ok((read(&answer)?, answer)));
            match part {
                Ok((part, answer)) => {
                    found.extend(part);
                    page = answer;
                }
                // What there is may do; whoever is not satisfied knows that there is more.
                Err(cause) => return Ok(List { found, incomplete: Some(cause) }),
            }
        }
        let more = next(&page.headers, &page.asked) != Ok(None);
        let cause =
            Cause::TooMany { what: "pages of referrers", limit: "REFERRER_PAGES", most: REFERRER_PAGES };
        Ok(List { found, incomplete: more.then_some(cause) })
    }

    /// The index under the tag `sha256-<hex>` ("Referrers Tag Schema"), which clients keep on registries without the API.
    async fn list_by_tag(&self, at: &At<'_>, digest: &Digest, heads_first: bool) -> Result<List, Cause> {
        let path = manifest_path(&format!("sha256-{}", digest.hex()))?;
        let query = Query { accept: Some(MANIFEST_TYPES), ..Query::get(&path, Cap::MANIFEST) };
        if heads_first {
            self.get(at, &Query { method: Method::HEAD, ..query.clone() }).await?;
        }
        let answer = self.get(at, &query).await?;
        let mut found = read(&answer)?;
        let more = found.len() > REFERRERS;
        found.truncate(REFERRERS);
        let cause = Cause::TooMany { what: "referrers", limit: "REFERRERS", most: REFERRERS };
        Ok(List { found, incomplete: more.then_some(cause) })
    }
}

/// Whether a registry has the API. What a registry without it says to an unknown path differs: go-containerregistry, and
/// so cosign, takes these for it too. A refused login or a server in trouble is never "no".
fn has_the_api(answer: &Answer) -> Result<bool, Cause> {
    match answer.status {
        StatusCode::OK if answer.is_web_page() => Err(Cause::NotARegistry),
        StatusCode::OK => Ok(media_type(&answer.headers) == INDEX_TYPE),
        StatusCode::NOT_FOUND
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE => Ok(false),
        _ => Err(super::ask::not_ok(answer)),
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The entries of an index. One that cannot be read would hide the others: it is left out.
fn read(answer: &Answer) -> Result<Vec<Descriptor>, Cause> {
    let bad = || Cause::Protocol(Violation::Referrers);
    let index = json::parse(&answer.body, "MANIFEST_BYTES", MANIFEST_BYTES).map_err(|_| bad())?;
    let entries = index.get("manifests").and_then(Value::as_array).ok_or_else(bad)?;
    let read = entries.iter().filter_map(|entry| Descriptor::read(entry).ok()).map(|mut descriptor| {
        let bytes: usize = descriptor.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > REFERRER_ANNOTATION_BYTES {
            descriptor.annotations = BTreeMap::new();
        }
        descriptor
    });
    Ok(read.collect())
}

/// The next page's address (RFC 8288).
fn next(headers: &HeaderMap, asked: &Uri) -> Result<Option<Uri>, Cause> {
    let bad = || Cause::Protocol(Violation::BadHeader("Link"));
    for value in headers.get_all(LINK) {
        let text = value.to_str().map_err(|_| bad())?;
        let (target, parameters) =
            text.trim().strip_prefix('<').and_then(|rest| rest.split_once('>')).ok_or_else(bad)?;
        let is_next = parameters.split(';').map(str::trim).any(|parameter| {
            parameter
                .strip_prefix("rel=")
                .is_some_and(|rel| rel.trim_matches('"').eq_ignore_ascii_case("next"))
        });
        if !is_next {
            continue;
        }
        let (scheme, authority) = (asked.scheme_str().ok_or_else(bad)?, asked.authority().ok_or_else(bad)?);
        let absolute = match target.as_bytes().first() {
            Some(b'/') if !target.starts_with("//") => format!("{scheme}://{authority}{target}"),
            Some(b'?') => format!("{scheme}://{authority}{}{target}", asked.path()),
            _ => target.to_owned(),
        };
        let uri: Uri = absolute.parse().map_err(|_| bad())?;
        // A server, or a proxy in between, may read `..` and its escapes as a way out of the repository.
        if uri.path().contains("..") || uri.path().contains('%') {
            return Err(Cause::Protocol(Violation::NextPage));
        }
        return Ok(Some(uri));
    }
    Ok(None)
}
