//! The canary: a create that must be refused.
//!
//! It goes the kubelet's way, through the listening socket, and cannot do harm if it is let through: the pod sandbox it
//! names does not exist, and neither does the image, whose ID is made up of random bytes.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;
use tonic::Code;

use super::facts::Canary;
use crate::audit::Decision;
use crate::control::Control;
use crate::cri::facts::ROLE_IMAGE;
use crate::cri::reply::{REGISTRY_UNAVAILABLE, SIGNATURE_VALIDATION_FAILED};
use crate::cri::runtime::RuntimeClient;
use crate::cri::v1;
use crate::image::Platform;
use crate::limits;
use crate::policy::NO_LABELS;
use crate::telemetry::Trace;
use crate::vetter::case::{Context, InForce};
use crate::vetter::node::Node;
use crate::vetter::vet::Vetter;
use crate::vetter::wire::{Call, ImageUse, Kind};

/// Longest the daemon may take for one judgement; it waits for its turn in the background.
pub(super) const JUDGED: Duration = Duration::from_secs(20);

/// The UID of the canary's pod. A real one's is made by the API server or the kubelet, so nobody's pod has it: by it
/// reports leave the canary out.
pub const POD_UID: &str = "crivet-doctor";
/// Stands for namespace, pod and wildcards.
const WORD: &str = "crivet-doctor";
/// An image that nobody has (RFC 2606: `.invalid` never resolves).
const NOBODYS: &str = "crivet-doctor.invalid/canary:1";

/// What the canary names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bait {
    /// The image, as a pod would name it.
    pub reference: String,
    /// Its made-up ID.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
}

/// An image that the policies would refuse in enforce mode; `None`: they refuse nothing. It asks nobody: no registry,
/// no runtime.
pub async fn bait(in_force: &InForce) -> Option<Bait> {
    let in_force = in_force.enforcing();
    let policies = in_force.policies.clone().ok()?;
    let id = format!("sha256:{}", random()?);
    let mut tried = vec![(NOBODYS.to_owned(), WORD.to_owned())];
    // A policy for certain namespaces refuses nothing elsewhere; the pod's UID tells the canary all the same.
    tried.extend(policies.samples(WORD).into_iter().map(|(reference, policy)| {
        let namespace = policy.namespaces().and_then(|names| names.first().cloned());
        (reference, namespace.unwrap_or_else(|| WORD.to_owned()))
    }));
    let host = Platform::new(std::env::consts::OS, std::env::consts::ARCH, "");
    let vetter = Vetter::new(Node::default(), host);
    let mut undecided = None;
    for (reference, namespace) in tried.into_iter().take(limits::DOCTOR_SAMPLES) {
        let context = Context {
            kind: Kind::CreateContainer,
            namespace: &namespace,
            labels: &NO_LABELS,
            auth: None,
            beside: false,
            trace: &Trace::default(),
            answer_by: Instant::now() + Duration::from_secs(1),
        };
        let image = ImageUse {
            named: id.clone(),
            reference: reference.clone(),
            role: ROLE_IMAGE.to_owned(),
            ..Default::default()
        };
        let vetting = vetter.image(&in_force, context, &image).await;
        let bait = Bait { reference, id: id.clone(), namespace: namespace.clone() };
        match vetting.decision {
            // Beyond doubt: no proof could change it.
            Decision::Denied if vetting.enforced => return Some(bait),
            Decision::Undecided if vetting.enforced => undecided = undecided.or(Some(bait)),
            _ => {}
        }
    }
    undecided
}

/// Sends the canary through crivet's socket.
pub async fn send(listen: &RuntimeClient, bait: &Bait) -> Canary {
    let Some(sandbox) = random() else {
        return Canary::NotTried("this system has no randomness to give".to_owned());
    };
    let image = bait.reference.clone();
    match listen.create_container(request(bait, &sandbox)).await {
        Err((code, message)) if is_refusal(code, &message) => Canary::Refused { image, message },
        Err((Code::Unavailable, message)) => Canary::NotTried(format!("crivet's socket: {message}")),
        Err((code, message)) => Canary::Passed { image, message: format!("{code:?}: {message}") },
        Ok(container) => {
            // A runtime that makes a container in a sandbox it does not have.
            let _ = listen.remove_container(&container).await;
            Canary::Passed { image, message: format!("container {container} was made") }
        }
    }
}

/// Asks the daemon what it would say, where nothing is enforced.
pub async fn ask(control: &mut Control, bait: &Bait) -> Canary {
    let image = ImageUse {
        named: bait.id.clone(),
        reference: bait.reference.clone(),
        role: ROLE_IMAGE.to_owned(),
        ..Default::default()
    };
    let call = Call {
        namespace: bait.namespace.clone(),
        images: vec![image],
        keep_nothing: true,
        ..Default::default()
    };
    match control.judge(call, JUDGED).await.map(|verdict| verdict.judged.into_iter().next()) {
        Ok(Some(judged)) => {
            Canary::Judged { image: bait.reference.clone(), refused: judged.refuses, message: judged.message }
        }
        Ok(None) => Canary::NotTried("nothing was judged".to_owned()),
        Err(error) => Canary::NotTried(error.to_string()),
    }
}

/// crivet's own answers have this code and these beginnings, and a runtime that misses a sandbox has not.
fn is_refusal(code: Code, message: &str) -> bool {
    code == Code::Unknown
        && [SIGNATURE_VALIDATION_FAILED, REGISTRY_UNAVAILABLE].iter().any(|start| message.starts_with(start))
}

fn request(bait: &Bait, sandbox: &str) -> v1::CreateContainerRequest {
    let image = v1::ImageSpec {
        image: bait.id.clone(),
        user_specified_image: bait.reference.clone(),
        ..Default::default()
    };
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "canary".to_owned() }),
        image: Some(image),
        ..Default::default()
    };
    let pod = v1::PodSandboxMetadata {
        name: "canary".to_owned(),
        uid: POD_UID.to_owned(),
        namespace: bait.namespace.clone(),
    };
    v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(config),
        sandbox_config: Some(v1::PodSandboxConfig { metadata: Some(pod), ..Default::default() }),
    }
}

/// 64 hexadecimal digits that nobody had before.
fn random() -> Option<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Mode, ProxyConfiguration};
    use crate::policy::{PolicySet, SourceFile};
    use crate::vetter::load::{client, logins};

    async fn baited(unmatched: &str, policies: &[&str]) -> Option<Bait> {
        let config = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///run/a.sock\n\
             runtimeEndpoint: unix:///run/b.sock\nmode: audit\nunmatched: {unmatched}\n"
        );
        let config = ProxyConfiguration::parse("config", config.as_bytes()).unwrap();
        let files: Vec<_> = policies
            .iter()
            .enumerate()
            .map(|(number, spec)| SourceFile {
                name: format!("{number}.yaml"),
                bytes: format!(
                    "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: p{number}}}\nspec:\n{spec}"
                )
                .into_bytes(),
            })
            .collect();
        let logins = logins(&config);
        let registry = client(&config, Arc::new(|_| panic!("a registry was asked")), &logins).unwrap();
        let policies = Ok(Arc::new(PolicySet::compile(&files).unwrap()));
        bait(&InForce {
            mode: Mode::Audit,
            config,
            policies,
            registry,
            trust: Arc::default(),
            logins,
            layouts: Arc::default(),
        })
        .await
    }

    const SIGNED: &str = "  images: ['r.test/**']\n  requirements:\n    keys:\n    - data: |\n        -----BEGIN PUBLIC KEY-----\n        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEjTLEMZ2N8IXgz1IGkbGT9nb4xA8T\n        BTE8J1bq3jCHvYUhpx2fkJjlyXQ4HyaHrlaqYU0ngGBTdFdZUgkNd8mb5g==\n        -----END PUBLIC KEY-----\n";

    #[tokio::test]
    async fn without_policies_only_unmatched_deny_refuses() {
        assert_eq!(baited("deny", &[]).await.unwrap().reference, NOBODYS);
        assert_eq!(baited("allow", &[]).await, None);
    }

    #[tokio::test]
    async fn a_policy_that_refuses_is_found_by_its_pattern_and_namespace() {
        let deny = "  images: ['r.test/a/*']\n  namespaces: [prod]\n  deny: {reason: closed}\n";
        let bait = baited("allow", &[deny]).await.unwrap();
        assert_eq!((bait.reference.as_str(), bait.namespace.as_str()), ("r.test/a/crivet-doctor", "prod"));
    }

    #[tokio::test]
    async fn a_policy_that_accepts_or_only_audits_is_no_bait() {
        let accept = "  images: ['**']\n  insecureAcceptAnything: {reason: test}\n";
        assert_eq!(baited("deny", &[accept]).await, None);
        let audits = "  images: ['r.test/a']\n  mode: audit\n  deny: {reason: closed}\n";
        assert_eq!(baited("allow", &[audits]).await, None);
    }

    #[tokio::test]
    async fn a_denial_is_better_bait_than_what_is_undecided() {
        let deny = "  images: ['x.test/**']\n  deny: {reason: closed}\n";
        assert_eq!(baited("allow", &[SIGNED, deny]).await.unwrap().reference, "x.test/crivet-doctor");
        let bait = baited("allow", &[SIGNED]).await.unwrap();
        assert_eq!(bait.reference, "r.test/crivet-doctor");
    }

    #[test]
    fn an_error_of_the_runtime_s_is_no_refusal() {
        assert!(is_refusal(Code::Unknown, "SignatureValidationFailed: image r.test/a: …"));
        assert!(is_refusal(Code::Unknown, "RegistryUnavailable: image r.test/a: …"));
        assert!(!is_refusal(Code::NotFound, "failed to find sandbox"));
        assert!(!is_refusal(Code::Unknown, "failed to find sandbox: SignatureValidationFailed: "));
    }
}
