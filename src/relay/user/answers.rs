//! What the kubelet was told when it asked as which user an image runs: the ID behind the name, as the runtime's answer passed.
//! It is what the kubelet goes by, and nearer to it than any question of crivet's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Response;
use http::request::Parts;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::cri::message::{decode, only_message};
use crate::cri::methods::Service;
use crate::cri::v1::{ImageSpec, ImageStatusRequest, ImageStatusResponse};
use crate::limits;
use crate::relay::Relay;
use crate::relay::body::{Passing, Relayed, ResponseBody};
use crate::relay::presence::asks_for_presence;
use crate::relay::upstream::Upstream;

/// How long an answer counts.
const COUNTS: Duration = Duration::from_secs(limits::USER_ANSWER_SECONDS);

/// The answers of the last seconds, by name. One set for all connections: the kubelet asks for images on another than it makes
/// containers on.
#[derive(Default)]
pub struct Answers {
    names: Mutex<HashMap<String, Answer>>,
}

/// The last answer for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// The image that it named; `None`: there was no such image.
    pub id: Option<String>,
    /// Whether no other answer was given lately. If there was one, which of them a caller had is not known.
    pub alone: bool,
}

struct Answer {
    /// `None`: there was no such image.
    id: Option<String>,
    at: Instant,
    /// When the last other answer was given.
    other: Option<Instant>,
}

impl Answers {
    /// An answer has passed.
    pub fn passed(&self, name: String, id: Option<String>, now: Instant) {
        let mut names = self.names();
        names.retain(|_, answer| now < answer.at + COUNTS);
        let before = names.get(&name);
        let other = before.and_then(|before| if before.id == id { before.other } else { Some(before.at) });
        if before.is_some() || names.len() < limits::USER_ANSWERS {
            names.insert(name, Answer { id, at: now, other });
        }
    }

    /// What was said last of this name; `None`: nobody asked lately.
    pub fn last(&self, name: &str, now: Instant) -> Option<Last> {
        let names = self.names();
        let answer = names.get(name)?;
        let counts = |at: Instant| now < at + COUNTS;
        counts(answer.at).then(|| Last { id: answer.id.clone(), alone: !answer.other.is_some_and(counts) })
    }

    /// A name may lead elsewhere by now, or an answer has passed that could not be read: of no name is known what was said last.
    pub fn forget(&self) {
        self.names().clear();
    }

    fn names(&self) -> MutexGuard<'_, HashMap<String, Answer>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Relays an ImageStatus, and keeps what it was answered.
pub async fn pass(
    relay: Arc<Relay>,
    upstream: &Upstream,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, h2::Error> {
    let body = Passing::new(body, limits::REPLAYED_CALL_BYTES);
    match upstream.send_passing(Service::Image, head, &body).await {
        Ok(response) => Ok(keep(relay, upstream, body.take().as_deref(), response)),
        Err(none) => none.into_response(),
    }
}

/// The runtime's response to an ImageStatus; what it says is kept when it has passed. `request`: the call's body, if it is known.
pub fn keep(
    relay: Arc<Relay>,
    upstream: &Upstream,
    request: Option<&[u8]>,
    response: Response<Incoming>,
) -> Response<ResponseBody> {
    let (head, incoming) = response.into_parts();
    let relayed = Relayed::new(incoming, Arc::clone(upstream.socket(Service::Image)));
    let spec = match request.and_then(spec) {
        Some(spec) if asks_for_presence(&spec) => {
            return Response::from_parts(head, ResponseBody::Relayed(relayed));
        }
        Some(spec) => spec,
        // Whoever was told what, of whichever name.
        None => {
            relay.user_answers.forget();
            return Response::from_parts(head, ResponseBody::Relayed(relayed));
        }
    };
    let (relayed, answer) = relayed.copied(limits::VETTED_ANSWER_BYTES);
    tokio::spawn(async move {
        let answer = answer.await.ok();
        match answer.as_deref().map(id) {
            Some(Some(id)) => relay.user_answers.passed(spec.image, id, Instant::now()),
            // A call that failed has no message: its caller knows no user, and makes nothing.
            _ if answer.is_some_and(|answer| answer.is_empty()) => {}
            _ => relay.user_answers.forget(),
        }
    });
    Response::from_parts(head, ResponseBody::Relayed(relayed))
}

fn spec(request: &[u8]) -> Option<ImageSpec> {
    let request: ImageStatusRequest = decode("ImageStatusRequest", only_message(request).ok()?).ok()?;
    request.image
}

fn id(answer: &[u8]) -> Option<Option<String>> {
    let answer: ImageStatusResponse = decode("ImageStatusResponse", only_message(answer).ok()?).ok()?;
    Some(answer.image.map(|image| image.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "r.io/a:1";

    fn passed(answers: &Answers, id: Option<&str>, now: Instant) {
        answers.passed(NAME.to_owned(), id.map(str::to_owned), now);
    }

    fn last(answers: &Answers, now: Instant) -> Option<(Option<String>, bool)> {
        answers.last(NAME, now).map(|last| (last.id, last.alone))
    }

    #[test]
    fn answers_count_for_a_while() {
        let (answers, now) = (Answers::default(), Instant::now());
        assert_eq!(last(&answers, now), None);
        passed(&answers, Some("sha256:a"), now);
        assert_eq!(last(&answers, now), Some((Some("sha256:a".to_owned()), true)));
        assert_eq!(answers.last("r.io/a:2", now), None);
        assert_eq!(last(&answers, now + COUNTS), None);
    }

    #[test]
    fn answer_is_not_alone_until_the_other_is_old() {
        let (answers, now) = (Answers::default(), Instant::now());
        let second = Duration::from_secs(1);
        let told = |id: &str, alone| Some((Some(id.to_owned()), alone));
        passed(&answers, Some("sha256:a"), now);
        passed(&answers, Some("sha256:b"), now + second);
        assert_eq!(last(&answers, now + second), told("sha256:b", false));
        // And back: one of both was told b.
        passed(&answers, Some("sha256:a"), now + 2 * second);
        passed(&answers, Some("sha256:a"), now + COUNTS);
        assert_eq!(last(&answers, now + COUNTS), told("sha256:a", false));
        assert_eq!(last(&answers, now + second + COUNTS), told("sha256:a", true));
    }

    #[test]
    fn no_image_is_an_answer() {
        let (answers, now) = (Answers::default(), Instant::now());
        passed(&answers, None, now);
        assert_eq!(last(&answers, now), Some((None, true)));
        passed(&answers, Some("sha256:a"), now);
        assert_eq!(last(&answers, now), Some((Some("sha256:a".to_owned()), false)));
    }

    #[test]
    fn nothing_is_known_after_an_answer_that_could_not_be_read() {
        let (answers, now) = (Answers::default(), Instant::now());
        passed(&answers, Some("sha256:a"), now);
        answers.forget();
        assert_eq!(last(&answers, now), None);
    }

    #[test]
    fn names_beyond_the_limit_are_not_kept() {
        let (answers, now) = (Answers::default(), Instant::now());
        for number in 0..=limits::USER_ANSWERS {
            answers.passed(number.to_string(), Some("sha256:a".to_owned()), now);
        }
        assert!(answers.last("0", now).is_some());
        assert_eq!(answers.last(&limits::USER_ANSWERS.to_string(), now), None);
    }
}
