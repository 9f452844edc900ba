//! By which of CRI-O's handlers something is made, and what its configuration says of them. CRI-O says the configuration over HTTP/1.1, on
//! the socket that it serves the CRI on (`crio status config` asks it so).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::super::handlers::Handlers;
use super::super::v1::PodSandboxStatusRequest;
use super::{Content, RuntimeClient, RuntimeError, failed, limits, timed};
use crate::image::quoted;

const CONFIG: &str = "GET /config";
/// Where CRI-O writes a sandbox's handler. It writes the pod's own labels and annotations to the same place, and after it.
const HANDLER: &str = "io.kubernetes.cri-o.RuntimeHandler";
const BELIEVED_FOR: Duration = Duration::from_secs(limits::CRIO_CONFIG_SECONDS);

/// What is known of CRI-O's handlers.
#[derive(Clone, Debug)]
pub(super) struct Known {
    handlers: Arc<Handlers>,
    asked: Instant,
    /// Who said so.
    process: Option<Process>,
}

/// A process, told from a later one with its number by when it started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    started: String,
}

/// What CRI-O says of a sandbox beyond what the CRI asks for.
#[derive(Deserialize)]
struct Info {
    #[serde(rename = "runtimeSpec")]
    runtime_spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    annotations: BTreeMap<String, String>,
}

impl RuntimeClient {
    /// CRI-O's handlers, as its configuration has them now or had them a moment ago; `None`: this is no CRI-O.
    ///
    /// # Errors
    /// It does not say.
    pub async fn handlers(&self) -> Result<Option<Arc<Handlers>>, RuntimeError> {
        if !matches!(self.content().await?, Content::Storage(_)) {
            return Ok(None);
        }
        let known = self.handlers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known.filter(|known| known.asked.elapsed() < BELIEVED_FOR) {
            Some(known) => Ok(Some(known.handlers)),
            None => self.handlers_anew().await.map(Some),
        }
    }

    /// The same, whatever is known.
    ///
    /// # Errors
    /// It does not say.
    pub async fn handlers_anew(&self) -> Result<Arc<Handlers>, RuntimeError> {
        let asked = Instant::now();
        let said = timeout(Duration::from_secs(limits::RUNTIME_CALL_SECONDS), self.config()).await;
        let late = |_| Err(unasked("it took too long (limits::RUNTIME_CALL_SECONDS)"));
        let (text, process) = said.unwrap_or_else(late)?;
        let mut handlers = Handlers::parse(&text).map_err(|why| unasked(&why))?;
        let mut known = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        // The same process goes on by what it was started with.
        if let Some(earlier) = known.as_ref().filter(|known| process.is_none() || known.process == process) {
            handlers = handlers.after(&earlier.handlers);
        }
        let handlers = Arc::new(handlers);
        *known = Some(Known { handlers: Arc::clone(&handlers), asked, process });
        Ok(handlers)
    }

    /// CRI-O's configuration, and who said so.
    async fn config(&self) -> Result<(String, Option<Process>), RuntimeError> {
        let unreachable = |_| unasked("it cannot be reached");
        let stream = UnixStream::connect(&*self.socket).await.map_err(unreachable)?;
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(Process::of);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| unasked("it gave no answer in HTTP/1.1"))?;
        let asking = async {
            let request = Request::get("/config").header(header::HOST, "crio").body(Empty::<Bytes>::new());
            let request = request.map_err(|error| unasked(&error.to_string()))?;
            let answer = sender.send_request(request).await;
            let answer = answer.map_err(|_| unasked("it gave no answer in HTTP/1.1"))?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    return Err(unasked("404: it does not say its configuration; CRI-O 1.15 and later do"));
                }
                status => return Err(unasked(&format!("expected status 200, found {}", status.as_u16()))),
            }
            let body = Limited::new(answer.into_body(), limits::CRIO_CONFIG_BYTES).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => RuntimeError::TooLarge {
                    what: "CRI-O's configuration".to_owned(),
                    cap: limits::CRIO_CONFIG_BYTES,
                    limit: "limits::CRIO_CONFIG_BYTES",
                },
                None => unasked("the answer was cut off"),
            })?;
            String::from_utf8(body.to_bytes().into()).map_err(|_| unasked("the answer is not UTF-8"))
        };
        tokio::pin!(asking);
        let text = tokio::select! {
            biased;
            text = &mut asking => text?,
            // What had arrived by its end is still to be read.
            _ = connection => asking.await?,
        };
        Ok((text, process))
    }

    /// The handler that a sandbox was made by; empty: the default.
    ///
    /// # Errors
    /// CRI-O does not say, or the pod's author may have written what it says.
    pub async fn handler_of(&self, sandbox: &str) -> Result<String, RuntimeError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
        let response = self.pods().pod_sandbox_status(timed(request)).await;
        let response = response.map_err(|s| failed("PodSandboxStatus", s))?.into_inner();
        let status = response.status.unwrap_or_default();
        let info = response.info.get("info").map(String::as_str).unwrap_or_default();
        let author_wrote_it = [&status.labels, &status.annotations].iter().any(|of| of.contains_key(HANDLER));
        handler_in(info, author_wrote_it)
    }

    /// The sandbox of a container.
    ///
    /// # Errors
    /// The runtime does not answer, or has no such container.
    pub async fn sandbox_of(&self, container: &str) -> Result<String, RuntimeError> {
        let found = self.containers().await?.into_iter().find(|found| found.id == container);
        let found = found.ok_or_else(|| RuntimeError::NotFound(format!("container {container}")))?;
        Ok(found.pod_sandbox_id)
    }
}

impl Process {
    fn of(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc_pid_stat(5): the name, in brackets, may have blanks; the start is the 20th field after it.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
        Some(Process { pid, started })
    }
}

fn handler_in(info: &str, author_wrote_it: bool) -> Result<String, RuntimeError> {
    let unknown = |reason: String| RuntimeError::Failed { call: "PodSandboxStatus", reason };
    if author_wrote_it {
        return Err(unknown(format!(
            "the pod has a label or annotation {HANDLER} of its own, which hides its runtime handler; take that out of the pod"
        )));
    }
    let mut info: Info = serde_json::from_str(info).map_err(|error| {
        unknown(format!("expected a runtimeSpec in its info: {}", quoted(&error.to_string())))
    })?;
    let handler = info.runtime_spec.annotations.remove(HANDLER);
    handler.ok_or_else(|| unknown(format!("expected an annotation {HANDLER} in its runtimeSpec, found none")))
}

fn unasked(reason: &str) -> RuntimeError {
    RuntimeError::Failed { call: CONFIG, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    const RUNC: &str = "[crio.runtime]\ndefault_runtime = \"runc\"\n[crio.runtime.runtimes.runc]\n";

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/toml\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// A CRI-O that gives this answer to each connection, and what it was asked.
    fn crio(folder: &Path, answer: String) -> (RuntimeClient, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let socket = folder.join("crio.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (asked, questions) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = Vec::new();
                while !question.ends_with(b"\r\n\r\n") && stream.read_buf(&mut question).await.unwrap() > 0 {}
                asked.send(String::from_utf8(question).unwrap()).unwrap();
                // It may be told enough before its end.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (RuntimeClient::new(&socket, &socket), questions)
    }

    async fn refused(answer: String) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (client, _questions) = crio(folder.path(), answer);
        client.handlers_anew().await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn configuration_is_asked_for_as_crio_says_it() {
        let folder = tempfile::tempdir().unwrap();
        let (client, mut questions) = crio(folder.path(), answer("200 OK", RUNC));
        let handlers = client.handlers_anew().await.unwrap();
        assert_eq!(handlers.is_bound("", &[]), Ok(()));
        let question = questions.recv().await.unwrap();
        assert!(
            question.starts_with("GET /config HTTP/1.1\r\n") && question.contains("host: crio\r\n"),
            "{question}"
        );
    }

    #[tokio::test]
    async fn what_the_same_process_said_before_counts_and_what_another_said_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (client, _questions) = crio(folder.path(), answer("200 OK", RUNC));
        let pulls = format!("{RUNC}[crio.runtime.runtimes.guest]\nruntime_type = \"vm\"\n");
        let process = Process::of(std::process::id().cast_signed());
        assert!(process.is_some());
        let of_another = Some(Process { started: "0".to_owned(), ..process.clone().unwrap() });
        for (process, counts) in [(of_another, false), (process, true)] {
            let handlers = Arc::new(Handlers::parse(&pulls).unwrap());
            *client.handlers.lock().unwrap() = Some(Known { handlers, asked: Instant::now(), process });
            let now = client.handlers_anew().await.unwrap();
            assert_eq!(now.has("guest"), counts);
        }
    }

    #[tokio::test]
    async fn crio_that_does_not_say_its_configuration() {
        let text = refused(answer("404 Not Found", "404 page not found\n")).await;
        assert_eq!(
            text,
            "the runtime did not answer GET /config: 404: it does not say its configuration; CRI-O 1.15 and later do"
        );
        let text = refused(answer("500 Internal Server Error", "no")).await;
        assert!(text.ends_with("expected status 200, found 500"), "{text}");
    }

    #[tokio::test]
    async fn answer_that_is_no_configuration() {
        assert!(refused(answer("200 OK", "{}")).await.contains("expected a table crio.runtime"));
        assert!(refused(answer("200 OK", "")).await.contains("expected a table crio.runtime"));
        assert!(refused("SSH-2.0-OpenSSH\r\n".to_owned()).await.ends_with("it gave no answer in HTTP/1.1"));
        let cut = answer("200 OK", RUNC).replace("Content-Length: ", "Content-Length: 9");
        assert!(refused(cut).await.ends_with("the answer was cut off"));
    }

    #[tokio::test]
    async fn configuration_over_the_limit_is_refused_by_its_name() {
        let long = format!("{RUNC}#{}\n", "x".repeat(limits::CRIO_CONFIG_BYTES));
        assert!(refused(answer("200 OK", &long)).await.contains("limits::CRIO_CONFIG_BYTES"));
    }

    #[tokio::test]
    async fn crio_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("crio.sock");
        let error = RuntimeClient::new(&socket, &socket).handlers_anew().await.unwrap_err().to_string();
        assert_eq!(error, "the runtime did not answer GET /config: it cannot be reached");
    }

    #[test]
    fn sandboxs_handler_is_what_crio_wrote_down() {
        let info = |annotations: &str| {
            format!("{{\"image\": \"pause\", \"runtimeSpec\": {{\"annotations\": {annotations}}}}}")
        };
        let said = info(&format!("{{\"{HANDLER}\": \"kata\", \"other\": \"x\"}}"));
        assert_eq!(handler_in(&said, false).unwrap(), "kata");
        assert_eq!(handler_in(&info(&format!("{{\"{HANDLER}\": \"\"}}")), false).unwrap(), "");
        // Not what it did not.
        for none in [info("{}"), "{}".to_owned(), String::new()] {
            assert!(handler_in(&none, false).is_err(), "{none}");
        }
        let text = handler_in(&said, true).unwrap_err().to_string();
        assert!(text.contains("of its own, which hides its runtime handler"), "{text}");
    }
}
