//! Conditions are asked while policies are judged, which must not take long; what they come to may be found out
//! elsewhere, and is then known when they are asked once more.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{About, Answer, Condition, Facts, answer};
use crate::image::Digest;
use crate::limits;
use crate::policy::model::Subject;
use crate::verify::Verified;

/// Conditions of one requirement, on one signature or attestation.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    conditions: Vec<Condition>,
    facts: Facts,
}

impl Question {
    /// What each of the conditions comes to. It may take some tenths of a second.
    pub fn answer(&self) -> Vec<Answer> {
        answer(&self.conditions, &self.facts)
    }

    /// The answers where nobody could find them out.
    pub fn unanswered(&self, why: &str) -> Vec<Answer> {
        vec![Answer::Unknown(why.to_owned()); self.conditions.len()]
    }
}

/// What conditions come to at one moment.
#[derive(Debug)]
pub struct Conditions {
    now: SystemTime,
    /// Whether questions are kept open where they are asked.
    deferred: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Vec<(Question, Vec<Answer>)>,
    open: Vec<Question>,
}

impl Conditions {
    /// Found out where they are asked.
    pub fn at(now: SystemTime) -> Self {
        Self { now, deferred: false, state: Mutex::default() }
    }

    /// Kept as questions where they are asked. A judgement that left some open is none: it has to be made anew with the
    /// answers.
    pub fn deferred(now: SystemTime) -> Self {
        Self { deferred: true, ..Self::at(now) }
    }

    /// The time they are asked at.
    pub fn now(&self) -> SystemTime {
        self.now
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the questions that were left open.
    pub fn take_open(&self) -> Vec<Question> {
        std::mem::take(&mut self.state().open)
    }

    /// Takes the answers to a question over.
    pub fn answered(&self, question: Question, answers: Vec<Answer>) {
        self.state().known.push((question, answers));
    }

    /// Of each condition what it comes to.
    pub(in crate::policy) fn ask(
        &self,
        about: About,
        conditions: &[Condition],
        subject: &Subject<'_>,
        digests: &[Digest],
        verified: &Verified,
    ) -> Vec<Answer> {
        let facts = Facts::new(about, subject, digests, verified, self.now);
        self.put(Question { conditions: conditions.to_vec(), facts })
    }

    /// What a policy in Rego comes to on what authorities found, JSON.
    pub(in crate::policy) fn review(&self, policy: &Condition, found: Bytes) -> Answer {
        let facts = Facts::of_matches(found, self.now);
        let mut answers = self.put(Question { conditions: vec![policy.clone()], facts });
        answers.pop().unwrap_or_else(|| Answer::Unknown("it was not asked".to_owned()))
    }

    fn put(&self, question: Question) -> Vec<Answer> {
        let mut state = self.state();
        if let Some((_, answers)) = state.known.iter().find(|(known, _)| *known == question) {
            return answers.clone();
        }
        if self.deferred {
            let unanswered = question.unanswered("it was not asked yet");
            if !state.open.contains(&question) {
                state.open.push(question);
            }
            return unanswered;
        }
        let answers = question.answer();
        state.known.push((question, answers.clone()));
        answers
    }

    /// Until when an answer holds that depends on the time.
    pub(in crate::policy) fn holds_until(&self) -> SystemTime {
        self.now.checked_add(Duration::from_secs(limits::CONDITION_NOW_SECONDS)).unwrap_or(self.now)
    }
}
