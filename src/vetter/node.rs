//! What the vetter may know of the node: it has no access to the runtime and asks the relay.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::wire::{
    self, FromVetter, ImageFacts, Ping, ReadContent, RuntimeAnswer, RuntimeQuestion, from_vetter,
    runtime_question,
};
use crate::config::NodeCredentials;
use crate::config::credential_files::{self, CredentialFile};
use crate::cri::runtime::RuntimeClient;
use crate::image::Digest;

/// Longest an answer of the relay is waited for; a little more than the relay's own limit.
const PATIENCE: Duration = Duration::from_secs(crate::limits::RUNTIME_CALL_SECONDS + 5);

/// The node, by way of the relay; in a command that runs by itself the runtime, or no node.
#[derive(Clone, Default)]
pub struct Node {
    relay: Option<Arc<Questions>>,
    runtime: Option<RuntimeClient>,
}

/// Questions to the relay that wait for their answers.
pub struct Questions {
    outgoing: mpsc::Sender<Bytes>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<RuntimeAnswer>>>,
    next: AtomicU64,
}

impl Questions {
    /// Questions that go out by `outgoing`.
    pub fn new(outgoing: mpsc::Sender<Bytes>) -> Questions {
        Questions { outgoing, waiting: Mutex::default(), next: AtomicU64::new(1) }
    }

    /// Takes the relay's answer to question `id`.
    pub fn answered(&self, id: u64, answer: RuntimeAnswer) {
        if let Some(waiting) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
            let _ = waiting.send(answer);
        }
    }

    async fn ask(&self, question: runtime_question::Question) -> Result<RuntimeAnswer, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, send);
        let body = from_vetter::Body::Runtime(RuntimeQuestion { question: Some(question) });
        let sent = self.outgoing.send(wire::frame(&FromVetter { id, body: Some(body) })).await;
        let answer = match sent {
            Ok(()) => timeout(PATIENCE, answer).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        answer.ok_or_else(|| "the relay did not answer a question about the runtime".to_owned())
    }
}

impl Node {
    /// The node behind the relay.
    pub fn new(relay: Arc<Questions>) -> Node {
        Node { relay: Some(relay), runtime: None }
    }

    /// The node of a command that may ask the runtime itself. The vetter never does.
    pub fn of_runtime(runtime: RuntimeClient) -> Node {
        Node { relay: None, runtime: Some(runtime) }
    }

    /// The image the runtime has under a name; `None` if it has none.
    ///
    /// # Errors
    /// Why it cannot be known, one line.
    pub async fn image_status(&self, name: &str) -> Result<Option<ImageFacts>, String> {
        if let Some(runtime) = &self.runtime {
            let image = runtime.image_status(name).await.map_err(|error| error.to_string())?;
            return Ok(image.map(|image| ImageFacts {
                id: image.id,
                repo_tags: image.repo_tags,
                repo_digests: image.repo_digests,
            }));
        }
        let Some(relay) = &self.relay else { return Ok(None) };
        let answer = relay.ask(runtime_question::Question::ImageStatus(name.to_owned())).await?;
        match (answer.image, answer.error.is_empty()) {
            (Some(image), true) => Ok(Some(image)),
            _ if answer.not_found => Ok(None),
            _ => Err(answer.error),
        }
    }

    /// A blob of the runtime's content store, at most `cap` bytes; `None` if it is not to be had. The bytes
    /// prove nothing until they are hashed.
    pub async fn content(&self, digest: &Digest, cap: usize) -> Option<Bytes> {
        if let Some(runtime) = &self.runtime {
            return runtime.read_content(&digest.to_string(), cap).await.ok().map(Bytes::from);
        }
        let read = ReadContent { digest: digest.to_string(), cap: cap as u64 };
        let answer = self.relay.as_ref()?.ask(runtime_question::Question::ReadContent(read)).await.ok()?;
        (answer.error.is_empty() && !answer.not_found).then_some(answer.content)
    }

    /// The files with the node's logins: read by the relay, whose configuration says which; in a command that runs by
    /// itself read here.
    ///
    /// # Errors
    /// The relay does not answer.
    pub async fn credential_files(&self, settings: &NodeCredentials) -> Result<Vec<CredentialFile>, String> {
        let Some(relay) = &self.relay else { return Ok(credential_files::read(settings)) };
        let answer = relay.ask(runtime_question::Question::CredentialFiles(Ping {})).await?;
        if !answer.error.is_empty() {
            return Err(answer.error);
        }
        let files = answer.credential_files.into_iter().map(|file| CredentialFile {
            path: file.path,
            of_providers: file.of_providers,
            content: match file.error.is_empty() {
                true => Ok(Zeroizing::new(file.content.to_vec())),
                false => Err(file.error),
            },
        });
        Ok(files.collect())
    }

    /// The relay's own metrics, as Prometheus text; empty if it does not answer.
    pub async fn relay_metrics(&self) -> String {
        let Some(relay) = &self.relay else { return String::new() };
        let answer = relay.ask(runtime_question::Question::Stats(Ping {})).await;
        answer.map(|answer| answer.exposition).unwrap_or_default()
    }
}
