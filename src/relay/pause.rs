//! The pause image: pulled and started by the runtime within one RunPodSandbox, and named by no call.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::ask::Refusal;
use super::{Relay, ask};
use crate::audit::Reason;
use crate::cri::deadline::Budget;
use crate::cri::facts::ROLE_PAUSE;
use crate::cri::runtime::RuntimeClient;
use crate::cri::v1::PodSandboxConfig;
use crate::decision::Permit;
use crate::vetter::wire::{Call, ImageUse, Kind};

/// How long the runtime's word on its pause image is believed; its configuration changes with a restart.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Knows, or finds out, the pause image's name.
pub struct PauseImage {
    setting: Option<String>,
    found: Mutex<Option<(String, Instant)>>,
    pulling: tokio::sync::Mutex<()>,
}

impl PauseImage {
    /// `setting`: the operator's word, which nothing overrules.
    pub fn new(setting: Option<String>) -> PauseImage {
        PauseImage { setting, found: Mutex::default(), pulling: tokio::sync::Mutex::default() }
    }

    /// The operator's word.
    pub fn setting(&self) -> Option<String> {
        self.setting.clone()
    }

    /// The name: the setting, else the runtime's Status, else its only pinned image.
    ///
    /// # Errors
    /// Why it cannot be known, and what to do, one line.
    pub async fn name(&self, runtime: &RuntimeClient) -> Result<String, String> {
        if let Some(name) = &self.setting {
            return Ok(name.clone());
        }
        let now = Instant::now();
        let believed = self.lock().clone().filter(|(_, since)| now.duration_since(*since) < BELIEVED_FOR);
        if let Some((name, _)) = believed {
            return Ok(name);
        }
        let name = ask_runtime(runtime).await?;
        *self.lock() = Some((name.clone(), now));
        Ok(name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(String, Instant)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask_runtime(runtime: &RuntimeClient) -> Result<String, String> {
    let info = runtime.status_info().await.map_err(|error| error.to_string())?;
    if let Some(name) = in_status(&info) {
        return Ok(name);
    }
    let pinned = runtime.pinned_images().await.map_err(|error| error.to_string())?;
    match pinned.as_slice() {
        [image] => image.repo_tags.first().or(image.repo_digests.first()).cloned(),
        _ => None,
    }
    .ok_or_else(|| {
        format!(
            "the pause image is not known: the runtime's Status does not name it and it has {} pinned images, not one; set pauseImage",
            pinned.len()
        )
    })
}

/// CRI-O says `sandboxImage`, containerd 1.x says it inside the JSON under `config`.
fn in_status(info: &std::collections::BTreeMap<String, String>) -> Option<String> {
    let config = || {
        let config: serde_json::Value = serde_json::from_str(info.get("config")?).ok()?;
        config.get("sandboxImage")?.as_str().map(str::to_owned)
    };
    info.get("sandboxImage").cloned().or_else(config).filter(|name| !name.is_empty())
}

/// The call of a RunPodSandbox, completed with the pause image the runtime has; `Err(name)` if it is absent.
pub async fn complete(relay: &Relay, call: &mut Call) -> Result<Result<(), String>, String> {
    let name = relay.pause.name(&relay.runtime).await?;
    let Some(image) = relay.runtime.image_status(&name).await.map_err(|error| error.to_string())? else {
        return Ok(Err(name));
    };
    call.images = vec![ImageUse {
        named: image.id,
        reference: name,
        role: ROLE_PAUSE.to_owned(),
        ..Default::default()
    }];
    Ok(Ok(()))
}

/// A permit for a sandbox. The pause image is pulled, vetted, if it is absent: the runtime would pull and start
/// it within the one call.
pub async fn permit(
    relay: &Relay,
    call: &mut Call,
    sandbox: Option<PodSandboxConfig>,
    budget: Budget,
) -> Result<Permit, Refusal> {
    if let Err(name) = within(budget, complete(relay, call)).await? {
        let _one = relay.pause.pulling.lock().await;
        // Whoever waited may find it pulled.
        if within(budget, complete(relay, call)).await?.is_err() {
            pull(relay, call, &name, sandbox, budget).await?;
            within(budget, complete(relay, call)).await?.map_err(|name| {
                let text =
                    format!("the pause image {name} was pulled and the runtime does not have it; try again");
                Refusal::own(&text, Reason::PauseImage)
            })?;
        }
    }
    ask::decide(relay, call, budget).await
}

/// The runtime's answers about its pause image, within the call's budget.
async fn within<T>(budget: Budget, asking: impl Future<Output = Result<T, String>>) -> Result<T, Refusal> {
    let answer = timeout(budget.left(Instant::now().into_std()), asking).await;
    let answer =
        answer.unwrap_or_else(|_| Err("the runtime did not say in time which pause image it has".to_owned()));
    answer.map_err(|text| Refusal::own(&text, Reason::PauseImage))
}

async fn pull(
    relay: &Relay,
    call: &Call,
    name: &str,
    sandbox: Option<PodSandboxConfig>,
    budget: Budget,
) -> Result<(), Refusal> {
    let image = ImageUse {
        named: name.to_owned(),
        reference: name.to_owned(),
        role: ROLE_PAUSE.to_owned(),
        ..Default::default()
    };
    let pull = Call { kind: Kind::PullImage.into(), images: vec![image], ..call.clone() };
    ask::decide(relay, &pull, budget).await?;
    relay.runtime.pull_image(name, sandbox).await.map_err(|error| {
        Refusal::own(&format!("the pause image {name} cannot be pulled: {error}"), Reason::PauseImage)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_in_which_a_status_names_it() {
        let crio = [("sandboxImage".to_owned(), "r/pause:1".to_owned())].into();
        assert_eq!(in_status(&crio).as_deref(), Some("r/pause:1"));
        let containerd = [("config".to_owned(), r#"{"a":1,"sandboxImage":"r/pause:2"}"#.to_owned())].into();
        assert_eq!(in_status(&containerd).as_deref(), Some("r/pause:2"));
        let later = [("config".to_owned(), r#"{"sandboxImage":""}"#.to_owned())].into();
        assert_eq!(in_status(&later), None);
    }
}
