//! What the vetter may ask the relay: about images and blobs in the runtime, the relay's counters, the node's logins. However it asks,
//! no more is kept for it than its limits say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::permits::Permits;
use crate::config::{NodeCredentials, credential_files};
use crate::cri::runtime::{RuntimeClient, RuntimeError};
use crate::limits;
use crate::metrics::RelayMetrics;
use crate::vetter::wire::{self, ImageFacts, RuntimeAnswer, RuntimeQuestion, runtime_question};

/// The vetter's questions about the runtime: bounded in number while they wait, and in bytes with their answers.
pub struct Questions {
    asked: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    answers: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
}

impl Questions {
    /// None yet; what they are answered with, each with the turn that ends when it has been written.
    pub fn new() -> (Questions, mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>) {
        let (answers, to_write) = mpsc::channel(limits::RUNTIME_QUESTIONS);
        let asked = Arc::new(Semaphore::new(limits::RUNTIME_QUESTIONS_WAITING));
        let turns = Arc::new(Semaphore::new(limits::RUNTIME_QUESTIONS));
        (Questions { asked, turns, answers }, to_write)
    }

    /// Has a question answered when it is its turn.
    ///
    /// # Errors
    /// Too many wait already; one line.
    pub fn ask(&self, answer: impl Future<Output = Option<Bytes>> + Send + 'static) -> Result<(), String> {
        let Ok(place) = Arc::clone(&self.asked).try_acquire_owned() else {
            let cap = limits::RUNTIME_QUESTIONS_WAITING;
            return Err(format!(
                "expected at most {cap} questions about the runtime at once (limits::RUNTIME_QUESTIONS_WAITING), found more; try again"
            ));
        };
        let (turns, answers) = (Arc::clone(&self.turns), self.answers.clone());
        tokio::spawn(async move {
            let _place = place;
            let Ok(turn) = turns.acquire_owned().await else { return };
            if let Some(answer) = answer.await {
                let _ = answers.send((answer, turn)).await;
            }
        });
        Ok(())
    }

    /// None that waits is answered any more.
    pub fn end(&self) {
        self.turns.close();
    }
}

/// Whether a question is no longer than the name or digest it is about can be.
pub fn names_no_more_than_there_is(question: &RuntimeQuestion) -> Result<(), String> {
    let name = match &question.question {
        Some(runtime_question::Question::ImageStatus(name)) => name,
        Some(runtime_question::Question::ReadContent(read)) => &read.digest,
        _ => return Ok(()),
    };
    let (cap, found) = (limits::REFERENCE_BYTES, name.len());
    match found > cap {
        true => Err(format!(
            "expected the name of an image or blob of at most {cap} bytes (limits::REFERENCE_BYTES), found one of {found}"
        )),
        false => Ok(()),
    }
}

/// What the vetter may know: of the runtime an image's names and IDs and a blob's bytes, the relay's counters, the node's logins.
pub async fn answer(
    question: RuntimeQuestion,
    runtime: &RuntimeClient,
    metrics: &RelayMetrics,
    permits: &Permits,
    credentials: NodeCredentials,
) -> RuntimeAnswer {
    let result = match question.question {
        Some(runtime_question::Question::ImageStatus(name)) => {
            runtime.image_status(&name).await.map(|image| match image {
                None => RuntimeAnswer { not_found: true, ..Default::default() },
                Some(image) => RuntimeAnswer {
                    image: Some(ImageFacts {
                        id: image.id,
                        repo_tags: image.repo_tags,
                        repo_digests: image.repo_digests,
                    }),
                    ..Default::default()
                },
            })
        }
        Some(runtime_question::Question::ReadContent(read)) => {
            let cap = usize::try_from(read.cap)
                .unwrap_or(usize::MAX)
                .min(limits::MANIFEST_BYTES.max(limits::CONFIG_BYTES));
            runtime
                .read_content(&read.digest, cap)
                .await
                .map(|content| RuntimeAnswer { content: content.into(), ..Default::default() })
        }
        Some(runtime_question::Question::Stats(_)) => Ok(RuntimeAnswer {
            exposition: {
                metrics.permits_held(permits.len());
                metrics.render("")
            },
            ..Default::default()
        }),
        Some(runtime_question::Question::CredentialFiles(_)) => Ok(credential_files(credentials).await),
        None => Ok(RuntimeAnswer { error: "an empty question".to_owned(), ..Default::default() }),
    };
    result.unwrap_or_else(|error| RuntimeAnswer {
        not_found: matches!(error, RuntimeError::NotFound(_)),
        error: error.to_string(),
        ..Default::default()
    })
}

/// The files with the node's logins, as they are now. They are root's: the vetter cannot read them itself.
async fn credential_files(settings: NodeCredentials) -> RuntimeAnswer {
    /// A file may be on a network's disk that hangs: no second thread is to hang there.
    static READING: Semaphore = Semaphore::const_new(1);
    let failed = |error: &str| RuntimeAnswer { error: error.to_owned(), ..Default::default() };
    let Ok(turn) = READING.try_acquire() else {
        return failed("the files with the node's logins are still being read; look at the disk they are on");
    };
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        credential_files::read(&settings)
    });
    let Ok(Ok(files)) = timeout(Duration::from_secs(limits::RUNTIME_CALL_SECONDS), read).await else {
        return failed(
            "the files with the node's logins could not be read in time; look at the disk they are on",
        );
    };
    let wired = files.into_iter().map(|file| {
        let (content, error) = match file.content {
            Ok(bytes) => (Bytes::copy_from_slice(&bytes), String::new()),
            Err(error) => (Bytes::new(), error),
        };
        wire::CredentialFile { path: file.path, of_providers: file.of_providers, content, error }
    });
    RuntimeAnswer { credential_files: wired.collect(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A vetter that asks and asks and reads nothing.
    #[tokio::test]
    async fn answers_nobody_reads_are_no_more_than_there_are_turns() {
        let (questions, mut answers) = Questions::new();
        let begun = Arc::<AtomicU64>::default();
        let ask = || {
            let begun = Arc::clone(&begun);
            questions.ask(async move {
                begun.fetch_add(1, Ordering::SeqCst);
                Some(Bytes::from_static(b"a blob"))
            })
        };
        let answered = async || {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            begun.load(Ordering::SeqCst)
        };
        const TURNS: u64 = limits::RUNTIME_QUESTIONS as u64;
        for _ in 0..limits::RUNTIME_QUESTIONS_WAITING {
            ask().unwrap();
        }
        assert!(ask().unwrap_err().contains("limits::RUNTIME_QUESTIONS_WAITING"));
        assert_eq!(answered().await, TURNS);
        let being_written = answers.recv().await.unwrap();
        assert_eq!(answered().await, TURNS);
        drop(being_written);
        assert_eq!(answered().await, TURNS + 1);
        for _ in 1..limits::RUNTIME_QUESTIONS_WAITING {
            drop(answers.recv().await.unwrap());
        }
        answered().await;
        ask().unwrap();
    }

    #[test]
    fn names_longer_than_any_are_not_asked_for() {
        let long = "x".repeat(limits::REFERENCE_BYTES + 1);
        let read = wire::ReadContent { digest: long.clone(), cap: 1 };
        let questions =
            [runtime_question::Question::ImageStatus(long), runtime_question::Question::ReadContent(read)];
        for question in questions {
            let question = RuntimeQuestion { question: Some(question) };
            let why = names_no_more_than_there_is(&question).unwrap_err();
            assert!(why.contains("limits::REFERENCE_BYTES"), "{why}");
        }
        let short = runtime_question::Question::ImageStatus("sha256:ab".into());
        assert!(names_no_more_than_there_is(&RuntimeQuestion { question: Some(short) }).is_ok());
    }
}
