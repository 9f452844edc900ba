//! ImageStatus while an image is hidden. The kubelet asks it for two reasons: whether it has to pull, and, before each create,
//! as which user the container runs. Only the first may be told that there is no image: without one for the second, the kubelet
//! runs the container as root. The first carries the pod's annotations, the second none.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Relay;
use super::body::{RequestBody, ResponseBody, Whole};
use super::intercept::read;
use super::upstream::Upstream;
use super::user::answers;
use crate::cri::message::{decode, encode, only_message};
use crate::cri::methods::Service;
use crate::cri::v1::{ImageSpec, ImageStatusRequest, ImageStatusResponse};

/// The call.
pub const IMAGE_STATUS: &str = "/runtime.v1.ImageService/ImageStatus";

/// What the kubelet adds to a pod's annotations whenever it asks on behalf of one.
const OF_A_POD: &str = "kubernetes.io/config.source";

/// Answers that a hidden image is not there; whatever else is asked goes to the runtime as it came.
pub async fn answer(
    relay: Arc<Relay>,
    upstream: &Upstream,
    head: Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, h2::Error> {
    let (body, _held) = match read(&relay, body).await {
        Ok(read) => read,
        Err(reply) => return Ok(reply.into_response()),
    };
    let request = only_message(&body).and_then(|bytes| decode("ImageStatusRequest", bytes));
    let spec = request.ok().and_then(|request: ImageStatusRequest| request.image).unwrap_or_default();
    if asks_for_presence(&spec) && relay.hidden.is_hidden(&spec.image, Instant::now()) {
        tracing::debug!(image = %spec.image, "hidden from the kubelet");
        return Ok(absent());
    }
    let again = || RequestBody::Whole(Whole::new(body.clone(), None));
    match upstream.send_whole(Service::Image, &head, again).await {
        Ok(response) => Ok(answers::keep(relay, upstream, Some(&body), response)),
        Err(none) => none.into_response(),
    }
}

/// Anything that is not plainly the kubelet's question whether to pull is not.
pub fn asks_for_presence(spec: &ImageSpec) -> bool {
    spec.annotations.contains_key(OF_A_POD)
}

/// As a runtime answers that has no such image.
fn absent() -> Response<ResponseBody> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Whole::new(encode(&ImageStatusResponse::default()), Some(trailers));
    let mut response = Response::new(ResponseBody::Whole(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_for_the_user_is_none_for_presence() {
        let mut spec = ImageSpec { image: "r.io/a:1".into(), ..Default::default() };
        assert!(!asks_for_presence(&spec));
        spec.annotations.insert("team".into(), "a".into());
        assert!(!asks_for_presence(&spec));
        spec.annotations.insert(OF_A_POD.into(), "api".into());
        assert!(asks_for_presence(&spec));
    }
}
