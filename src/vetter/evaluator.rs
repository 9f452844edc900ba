//! Conditions of policies are evaluated on threads of their own: one may take some tenths of a second, in which this
//! process would do nothing else.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::limits;
use crate::policy::{Answer, Question};

/// Finds out what conditions come to, at most [`limits::CONDITIONS_AT_ONCE`] at a time.
pub struct Evaluator {
    places: Arc<Semaphore>,
}

impl Default for Evaluator {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(limits::CONDITIONS_AT_ONCE)) }
    }
}

impl Evaluator {
    /// The answers to a question, which is given back with them.
    pub async fn answer(&self, question: Question) -> (Question, Vec<Answer>) {
        // It is never closed. The place is given back when the work is done, whether somebody waits for it or not.
        let place = Arc::clone(&self.places).acquire_owned().await;
        let asked = question.clone();
        let work = tokio::task::spawn_blocking(move || {
            let answers = asked.answer();
            drop(place);
            answers
        });
        let answers = match work.await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::error!(%error, "a condition could not be evaluated");
                question.unanswered("its evaluation failed, which is a fault of crivet")
            }
        };
        (question, answers)
    }
}
