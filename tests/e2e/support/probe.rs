//! Calls through a socket, again and again, each on a connection of its own as one of a kubelet that was just told to go.

use crivet::cri::runtime::RuntimeClient;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Answers>>,
}

/// What the probes met.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub calls: usize,
    /// What was said instead of an answer.
    pub failed: Vec<String>,
    pub slowest: Duration,
    /// Longest time between two answers.
    pub gap: Duration,
}

impl Probe {
    /// A Version each 20 ms, until [`Probe::end`].
    pub fn start(socket: &Path) -> Self {
        let (stop, socket) = (Arc::<AtomicBool>::default(), socket.to_owned());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut answers = Answers::default();
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let ask = || runtime.block_on(async { RuntimeClient::new(&socket, &socket).version().await });
                // A connection that is being ended when it is made says so before the call is sent. A kubelet's gRPC
                // library takes another one then, unasked (gRFC A6, transparent retries); hyper leaves that to its user.
                let unsent = |error: &String| error.ends_with("Cancelled: operation was canceled");
                let asked = ask().map_err(|error| error.to_string());
                let asked = if asked.as_ref().is_err_and(unsent) {
                    ask().map_err(|error| error.to_string())
                } else {
                    asked
                };
                answers.calls += 1;
                answers.slowest = answers.slowest.max(begun.elapsed());
                match asked {
                    Ok(_) => {
                        answers.gap = answers.gap.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(error) => answers.failed.push(error),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            answers
        });
        Self { stop, thread: Some(thread) }
    }

    pub fn end(mut self) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
