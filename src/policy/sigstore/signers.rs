//! Who may sign, as an authority of a ClusterImagePolicy says it.

use super::{Authority, Ctlog, KeyRef, KeylessRef, Timestamp, unsupported};
use crate::image::quoted;
use crate::policy::signers::{PUBLIC_GOOD, Reader, Text, shown};
use crate::verify::{Authority as Signs, KeylessAuthority, Witness, Witnesses};
use crate::yaml::{Document, Fault};

/// sigstore's public instances, by which policies name them; any other is a TrustRoot's.
const FULCIO: &str = "https://fulcio.sigstore.dev";
const REKOR: &str = "https://rekor.sigstore.dev";

/// What an authority asks for besides the signature. `own`: keyless, so that a log is asked for unless told otherwise,
/// as policy-controller does.
fn witnesses(
    document: &Document<'_>,
    authority: &Authority,
    own: bool,
    faults: &mut Vec<Fault>,
) -> Witnesses {
    let root = |named: &Option<String>| match named {
        Some(name) => Some(name.clone()),
        None => (!own).then(|| PUBLIC_GOOD.to_owned()),
    };
    let logs = match &authority.ctlog {
        Some(Ctlog { url, trust_root_ref }) => {
            public(
                document,
                "spec.authorities.ctlog.url",
                url.as_ref(),
                REKOR,
                trust_root_ref.is_some(),
                faults,
            );
            Witness { count: 1, root: root(trust_root_ref) }
        }
        None => Witness { count: u8::from(own), root: None },
    };
    let timestamps = match &authority.rfc3161timestamp {
        Some(Timestamp { trust_root_ref }) => Witness { count: 1, root: root(trust_root_ref) },
        None => Witness::default(),
    };
    Witnesses { logs, timestamps }
}

/// A service that is named by its address has to be the public one: what another's keys are only a TrustRoot says.
fn public(
    document: &Document<'_>,
    key: &str,
    url: Option<&Text>,
    known: &str,
    has_root: bool,
    faults: &mut Vec<Fault>,
) {
    if let Some(url) = url.filter(|url| !has_root && url.value.trim_end_matches('/') != known) {
        let text = format!(
            "{key}: expected {known} or a trustRootRef beside it, found {}; write a TrustRoot with its keys, and its name as trustRootRef",
            quoted(&url.value)
        );
        faults.push(document.fault_at(url, text));
    }
}

pub(super) fn keyless(
    document: &Document<'_>,
    authority: &Authority,
    written: &KeylessRef,
    faults: &mut Vec<Fault>,
) -> Option<Signs> {
    const AT: &str = "spec.authorities.keyless";
    let instead = "write a TrustRoot with the certificate, and its name as trustRootRef";
    unsupported(document, &format!("{AT}.ca-cert"), &written.ca_cert, instead, faults);
    let has_root = written.trust_root_ref.is_some();
    public(document, &format!("{AT}.url"), written.url.as_ref(), FULCIO, has_root, faults);
    if written.identities.is_empty() {
        let text = format!("{AT}.identities: expected at least one identity, found none; add one");
        faults.push(document.fault_at_start(text));
        return None;
    }
    let witnesses = witnesses(document, authority, true, faults);
    let mut reader = Reader { document, at: AT, faults };
    let identities: Option<Vec<_>> = written
        .identities
        .iter()
        .map(|identity| {
            let issuer = (identity.issuer.as_ref(), identity.issuer_reg_exp.as_ref());
            reader.named(issuer, (identity.subject.as_ref(), identity.subject_reg_exp.as_ref()))
        })
        .collect();
    Some(Signs::Keyless(KeylessAuthority {
        name: authority.name.as_ref().map(|name| shown(name)),
        root: written.trust_root_ref.clone().unwrap_or_else(|| PUBLIC_GOOD.to_owned()),
        identities: identities?,
        sct: written.insecure_ignore_sct != Some(true),
        witnesses,
    }))
}

pub(super) fn key(
    document: &Document<'_>,
    authority: &Authority,
    written: &KeyRef,
    faults: &mut Vec<Fault>,
) -> Option<Signs> {
    let instead = "put the public key itself into key.data";
    unsupported(document, "spec.authorities.key.secretRef", &written.secret_ref, instead, faults);
    unsupported(document, "spec.authorities.key.kms", &written.kms, instead, faults);
    if let Some(hash) = written.hash_algorithm.as_ref().filter(|hash| hash.value != "sha256") {
        let text = format!(
            "spec.authorities.key.hashAlgorithm: expected sha256, found {}; leave it out",
            quoted(&hash.value)
        );
        faults.push(document.fault_at(hash, text));
    }
    let witnesses = witnesses(document, authority, false, faults);
    let Some(data) = &written.data else {
        if written.secret_ref.is_none() && written.kms.is_none() {
            let text = "spec.authorities.key: expected data, found none; put the public key there";
            faults.push(document.fault_at_start(text.to_owned()));
        }
        return None;
    };
    Reader { document, at: "spec.authorities", faults }.key(
        "key.data",
        authority.name.as_ref(),
        data,
        witnesses,
    )
}
