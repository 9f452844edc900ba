//! What each reason means, and what to do about it. docs/report.md has the same table; a test holds them together.

use crate::audit::Reason;

/// What a report says about a reason.
pub(super) struct Advice {
    pub(super) title: &'static str,
    pub(super) what_to_do: &'static str,
}

/// The name of a reason that a record does not say, or that this crivet has never heard of.
pub(super) const NOT_SAID: &str = "NotSaid";

/// The reason's name in a report.
pub(super) fn name(reason: Option<Reason>) -> &'static str {
    reason.map_or(NOT_SAID, Reason::as_str)
}

/// What to do.
pub(super) fn advice(reason: Option<Reason>) -> Advice {
    let (title, what_to_do) = match reason {
        Some(Reason::SignatureMissing) => (
            "The image is not signed",
            "Sign it by digest as the policy asks, in the pipeline that builds it: cosign sign IMAGE@DIGEST, with --key KEY where it asks for a key. If it is signed in another repository, name that in the policy (evidence).",
        ),
        Some(Reason::SignatureByOtherKey) => (
            "The image is signed, but by none of the policy's signers",
            "Find out who signed it; the message has what the signature says of itself. If that signer is to be trusted, add the key or identity to the policy; otherwise sign the image as the policy asks.",
        ),
        Some(Reason::SignatureByOtherIdentity) => (
            "The image is signed with a certificate, for nobody whom the policy names",
            "See in the message who signed it. If that identity is to be trusted, add it to the policy (a regular expression has to match all of it); otherwise sign the image where the policy expects it.",
        ),
        Some(Reason::SignatureInvalid) => (
            "The signature's certificate, log entry or timestamp does not hold",
            "The message says which check failed. If the policy asks for a log or a timestamp that the signature does not have, sign with one, or change the threshold. If a private instance of sigstore signed it, name its trusted root in the policy (trustRoot). Else sign the image anew.",
        ),
        Some(Reason::AttestationMissing) => (
            "The image has no attestation of the type that the policy asks for",
            "Attest it in the pipeline that builds it (cosign attest --type TYPE --predicate FILE IMAGE@DIGEST). A signature is no attestation.",
        ),
        Some(Reason::SignatureMalformed) => (
            "What was found is no well-formed signature of an image",
            "Sign the image anew with cosign. If a trusted key signed it and nobody can say what, look into how that key is used.",
        ),
        Some(Reason::SignatureForOtherImage) => (
            "The signature that was found belongs to another image",
            "Sign this digest. A signature copied from another image proves nothing; find out who put it there.",
        ),
        Some(Reason::SignatureForOtherRepository) => (
            "The signature names another repository than the image's, or none",
            "cosign 3's signatures name none: allow that in the policy (claimedRepository: {unnamed: accept}) if it will do. If images are signed in one repository and pulled from another, allow that one (claimedRepository: {oneOf: [REPOSITORY]}); otherwise sign the image where it is pulled from.",
        ),
        Some(Reason::SignatureTooOld) => (
            "The signature or attestation is older than the policy allows, or nobody vouches for its time",
            "Sign or attest the image anew, with a timestamp or a log; better, build it anew. The message says since when it is too old.",
        ),
        Some(Reason::ConditionNotMet) => (
            "What was signed or attested does not meet a condition of the policy",
            "The message says which condition, and what was found. Mend what it found in the pipeline (another build, a newer scan) and attest the image anew; or change the condition (docs/conditions.md).",
        ),
        Some(Reason::SignersTooFew) => (
            "One signer has signed where the policy asks for several",
            "Have the others sign the same digest, too. Signatures by one key, or with certificates in one name, count once.",
        ),
        Some(Reason::DeniedByPolicy) => (
            "A policy denies the image",
            "If that is intended, nothing but to tell who runs it. Otherwise change the policy's deny rule.",
        ),
        Some(Reason::Exempted) => (
            "A policy asks nothing of the image for a time",
            "Nothing, until the exemption ends: the message says when. Then the image has to satisfy the policy, or it is refused.",
        ),
        Some(Reason::NoPolicy) => (
            "No policy covers the image",
            "Add an ImagePolicy for the registry or repository, or use an image from one that is covered.",
        ),
        Some(Reason::RegistryUnreachable) => (
            "The registry could not be reached",
            "Check from the node: name resolution, firewall, TLS, proxy, the registry itself. crivet uses the runtime's mirrors only where registry.configPath or registry.registriesConf names their files.",
        ),
        Some(Reason::RegistryRateLimited) => (
            "The registry has had too many requests",
            "Log in to it, raise its quota, or pull through a mirror of your own.",
        ),
        Some(Reason::RegistryLogin) => (
            "The registry wants another login",
            "Give the pods a pull secret, or the node a login (registry.credentials), that may read this repository, the signatures in it included.",
        ),
        Some(Reason::RegistryAnswer) => (
            "What answered is no registry, or its answer was refused",
            "Look at what is behind that address: a proxy, a login page, a redirect to another host.",
        ),
        Some(Reason::RegistryHosts) => (
            "The runtime's registry hosts leave nobody to ask",
            "The message names the file, or the entry that blocks the image. Mend it, or let crivet's vetter read it; it is read again by itself.",
        ),
        Some(Reason::EvidenceLayouts) => (
            "An OCI layout on the node with evidence could not be read",
            "Mend what the message names, and reload crivet (systemctl reload crivet): copy the layout anew, owned by root and writable by nobody else.",
        ),
        Some(Reason::NotFound) => (
            "The registry does not have it",
            "Check the name and tag. If the image was deleted from the registry, push it again, or move to one that is there.",
        ),
        Some(Reason::ContentAltered) => (
            "The image was altered on the node's disk",
            "Find out who wrote to the runtime's folder, and take the node for compromised until you know. Then remove the image from the node with all containers of it; it is pulled again.",
        ),
        Some(Reason::ContentDiffers) => (
            "The content is not what was vetted",
            "A tag that moved meanwhile settles itself. If it stays, pull the image anew and compare registry, mirror and node: content may have been altered.",
        ),
        Some(Reason::ContentUnbound) => (
            "What runs there need not be what the image's ID says",
            "Give the pods a runtime class with containerd's overlayfs and runc, or a handler of CRI-O's of type oci. Where you accept what the lazy snapshotter or the guest fetches unvetted, name it in insecureAllowSnapshotters or insecureAllowRuntimes (docs/configuration.md).",
        ),
        Some(Reason::ContentNotChecked) => (
            "No check has found the image's layers whole in time",
            "Its policy asks for one (content.layersCheckedWithin). Have checks run: systemctl enable --now crivet-content.timer crivet-content-requested.path. If they do, crivet doctor says why they cannot find it whole.",
        ),
        Some(Reason::LimitReached) => (
            "The image is beyond a limit of crivet's",
            "The message names the limit. Remove signatures and attestations that nobody needs, or build a smaller index.",
        ),
        Some(Reason::ImageUnusable) => (
            "The image cannot be vetted as it is",
            "The message says what is wrong with it: build and push it anew, for this platform. Container checkpoints cannot be vetted.",
        ),
        Some(Reason::ImageUnclear) => (
            "The call does not say which image is meant",
            "Name the image by its repository in the pod, and pull it by that name rather than importing it.",
        ),
        Some(Reason::ImageDrifted) => (
            "The tag points elsewhere in the registry than at what was vetted",
            "If the tag was meant to move, pull the image anew (imagePullPolicy: Always, or onDrift: repull in the policy). Otherwise find out who moved it, and move it back.",
        ),
        Some(Reason::RecheckRegistryDown) => (
            "A registry that is down did not say what the tag points at now",
            "Mend the way to the registry. Until then whenRegistryDown: allow lets what was vetted run.",
        ),
        Some(Reason::RecheckLoginRefused) => (
            "A registry refused every login when asked what the tag points at now",
            "Give the pods a pull secret that may read the repository, or the node a login (docs/credentials.md).",
        ),
        Some(Reason::NameMoved) => (
            "The runtime has another image under the pod's name than the one it was to run",
            "It settles itself: the kubelet asks again. If it stays, find out who tags or removes images on the node.",
        ),
        Some(Reason::Runtime) => (
            "The runtime could not be asked, or does not have the image",
            "Look at the runtime's own log; pull the image by its name.",
        ),
        Some(Reason::VetterAway) => (
            "No vetter was there to be asked",
            "It is started anew by itself, and the kubelet tries again. If it happens often, crivet's log says why it ends.",
        ),
        Some(Reason::TooSlow) => (
            "Vetting did not end in time",
            "It goes on, and the next try finds it done. If it happens often: is the registry slow, or vetting.timeout too short?",
        ),
        Some(Reason::BackgroundBudget) => (
            "Not looked at: the budget for work that nobody waits for was used up",
            "Nothing is wrong with the image. It will be looked at when it is used again; crivet verify tells now.",
        ),
        Some(Reason::TrustMissing) => (
            "A trusted root that a policy rests on is not there",
            "The message names it. Add it to trust.roots, or correct its name in the policy; if it is there, crivet doctor says why it could not be had.",
        ),
        Some(Reason::PoliciesNotLoaded) => (
            "There were no policies to decide by",
            "Mend the policies (crivet policy check names file and line) and reload crivet.",
        ),
        Some(Reason::PauseImage) => (
            "The pause image is not known, or not there",
            "Set pauseImage in crivet's configuration to what the runtime uses.",
        ),
        Some(Reason::CallNotVettable) => (
            "A call that crivet cannot vet",
            "Find out who makes it. insecureAllowUnvetted lets it through in enforce mode, unvetted.",
        ),
        None => (
            "The record does not say why",
            "It was written by another version of crivet: its message says why.",
        ),
    };
    Advice { title, what_to_do }
}
