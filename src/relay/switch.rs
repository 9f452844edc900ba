//! The switch from audit to enforce: what it would break on this node, asked before it is made.
//!
//! Without its pause image no pod starts, and without its static pods a control-plane node does not come back. So
//! these are judged under the new policies first. What cannot be decided counts as refused: a flip can wait.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::{Relay, look, pause, vouched};
use crate::cri::bound;
use crate::cri::facts::{ROLE_IMAGE, ROLE_PAUSE};
use crate::cri::runtime::RuntimeError;
use crate::cri::v1::{Container, ContainerState, PodSandbox, PodSandboxState};
use crate::vetter::wire::{Call, ImageUse, Kind};

/// Longest the vetter may take to have the new configuration in force, and to judge one image.
const PATIENCE: Duration = Duration::from_secs(120);

/// A refused switch is tried again after this long, then after twice as long, up to [`LONGEST_RETRY`]: a registry
/// that is away at that moment should not need a human.
pub const FIRST_RETRY: Duration = Duration::from_secs(10);
/// See [`FIRST_RETRY`].
pub const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Most refused images that are named; the rest is counted.
const NAMED: usize = 8;

/// Where a pod comes from (the kubelet's annotation): `api`, else `file` or `http` for a static pod.
const SOURCE: &str = "kubernetes.io/config.source";

/// Whether the configuration with this serial could be enforced without breaking the node.
///
/// # Errors
/// What stands against it and what to do, one line.
pub async fn check(relay: &Relay, serial: u64) -> Result<(), String> {
    let refusals = refusals(relay, serial).await.unwrap_or_else(|why| vec![why]);
    if refusals.is_empty() {
        return Ok(());
    }
    let mut text = "the switch to enforce is refused, the mode stays audit: ".to_owned();
    text.push_str(&refusals.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; "));
    if let Some(more) = refusals.len().checked_sub(NAMED).filter(|more| *more > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, "; and {more} more");
    }
    text.push_str(
        " - sign these images or change their policies; it is tried again by itself, and at a reload",
    );
    Err(text)
}

/// What enforcement would refuse; an error is what makes that unknowable.
async fn refusals(relay: &Relay, serial: u64) -> Result<Vec<String>, String> {
    let configured = relay.vetter.configured(serial, PATIENCE).await;
    let configured = configured.map_err(|none| none.to_string())?;
    if !configured.policy_error.is_empty() {
        return Err(format!("the policies are not what is in their folder: {}", configured.policy_error));
    }
    let mut running = vec![Running { call: pause_image(relay).await?, container: String::new() }];
    running.extend(static_pods(relay).await?);
    let mut refusals = Vec::new();
    for running in running {
        refusals.extend(refusal(relay, running).await);
    }
    Ok(refusals)
}

/// What would be asked about a container, and its ID; none for the pause image.
struct Running {
    call: Call,
    container: String,
}

async fn pause_image(relay: &Relay) -> Result<Call, String> {
    let mut call = Call::default();
    match pause::complete(relay, &mut call).await {
        Ok(Ok(())) => Ok(call),
        Ok(Err(name)) => Err(format!(
            "the pause image {name} is not on this node, so nobody knows what would become of it; pull it (crictl pull)"
        )),
        Err(why) => Err(why),
    }
}

/// The images of the containers of static pods, those that are mounted into them among them. Also of those that have ended: an
/// init container is needed at the pod's next start, one that crashes at its own.
async fn static_pods(relay: &Relay) -> Result<Vec<Running>, String> {
    let failed = |error: RuntimeError| error.to_string();
    let sandboxes = relay.runtime.pod_sandboxes().await.map_err(failed)?;
    let sandboxes: BTreeMap<String, PodSandbox> = sandboxes
        .into_iter()
        .filter(|sandbox| sandbox.state() == PodSandboxState::SandboxReady && is_static(sandbox))
        .map(|sandbox| (sandbox.id.clone(), sandbox))
        .collect();
    let mut running = Vec::new();
    for container in newest(relay.runtime.containers().await.map_err(failed)?) {
        let Some(sandbox) = sandboxes.get(&container.pod_sandbox_id) else { continue };
        let pod = sandbox.metadata.clone().unwrap_or_default();
        let spec = container.image.unwrap_or_default();
        let named = if container.image_id.is_empty() { spec.image } else { container.image_id };
        let mut images = uses(relay, &named, spec.user_specified_image).await.map_err(failed)?;
        match relay.runtime.image_volumes(&container.id).await {
            Ok(volumes) => {
                for volume in volumes {
                    images.extend(
                        uses(relay, &volume.image, volume.user_specified_image).await.map_err(failed)?,
                    );
                }
            }
            // It is gone since.
            Err(RuntimeError::NotFound(_)) => continue,
            Err(error) => return Err(failed(error)),
        }
        let call = Call {
            namespace: pod.namespace,
            pod_name: pod.name,
            pod_uid: pod.uid,
            container_name: container.metadata.unwrap_or_default().name,
            labels: sandbox.labels.clone(),
            images,
            ..Default::default()
        };
        running.push(Running { call, container: container.id });
    }
    // The runtime's order is none, and the message should be the same each time.
    running.sort_by(|a, b| place(a).cmp(&place(b)));
    running.dedup_by(|a, b| place(a) == place(b));
    Ok(running)
}

/// Each container of a sandbox once, as it was made last: those before it are what it was tried with before.
fn newest(all: Vec<Container>) -> impl Iterator<Item = Container> {
    let mut newest = BTreeMap::<(String, String), Container>::new();
    let rank =
        |container: &Container| (container.state() == ContainerState::ContainerRunning, container.created_at);
    for container in all {
        let name = container.metadata.clone().unwrap_or_default().name;
        let place = (container.pod_sandbox_id.clone(), name);
        if newest.get(&place).is_none_or(|known| rank(known) <= rank(&container)) {
            newest.insert(place, container);
        }
    }
    newest.into_values()
}

/// The image under the pod's own words. A runtime older than that field (containerd 1.6) and CRI-O do not keep them; then
/// every name that it has for the image may be the one, and each has to be let through.
async fn uses(relay: &Relay, named: &str, reference: String) -> Result<Vec<ImageUse>, RuntimeError> {
    let mut references = vec![reference];
    if references.iter().all(String::is_empty)
        && let Some(image) = relay.runtime.image_status(named).await?
    {
        let names = if image.repo_tags.is_empty() { image.repo_digests } else { image.repo_tags };
        if !names.is_empty() {
            references = names;
        }
    }
    let image = |reference| ImageUse {
        named: named.to_owned(),
        reference,
        role: ROLE_IMAGE.to_owned(),
        ..Default::default()
    };
    Ok(references.into_iter().map(image).collect())
}

fn is_static(sandbox: &PodSandbox) -> bool {
    sandbox.annotations.get(SOURCE).is_some_and(|source| source != "api")
}

fn place(Running { call, .. }: &Running) -> (&str, &str, &str) {
    (&call.namespace, &call.pod_name, &call.container_name)
}

/// What an enforcing daemon would say against an image of this call, or against what is made of it.
async fn refusal(relay: &Relay, Running { call, container }: Running) -> Option<String> {
    let call = Call { kind: Kind::Inventory.into(), beside: true, ..call };
    let whose = match call.images.first() {
        Some(image) if image.role == ROLE_PAUSE => "the pause image".to_owned(),
        _ => format!("static pod {}/{} container {}", call.namespace, call.pod_name, call.container_name),
    };
    let images = call.images.clone();
    let why = match relay.vetter.ask(call, PATIENCE).await {
        Ok(mut verdict) if verdict.judged.len() == images.len() && !images.is_empty() => {
            vouched::judged(relay, &images, &mut verdict.judged).await;
            let needs_proof = verdict.judged.iter().any(|judged| !judged.digest.is_empty());
            match verdict.judged.into_iter().find(|judged| judged.refuses) {
                Some(judged) => judged.message,
                None if needs_proof => match look::possible(relay).await {
                    Err(refusal) => refusal.reply.message,
                    Ok(()) if container.is_empty() => return None,
                    Ok(()) => {
                        let allowed = Arc::clone(&relay.live.borrow().allowed);
                        bound::against(&relay.runtime, &container, &allowed).await?
                    }
                },
                None => return None,
            }
        }
        Ok(verdict) => verdict.message,
        Err(none) => none.to_string(),
    };
    Some(format!("{whose}: {why}"))
}
