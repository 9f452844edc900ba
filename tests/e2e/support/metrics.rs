//! What crivet serves at `metricsAddress`.

use super::{free_port, http, wait_for};
use std::time::Duration;

pub struct Metrics(String);

impl Metrics {
    /// An address that nobody listens on yet.
    pub fn unused() -> Self {
        Self(format!("127.0.0.1:{}", free_port()))
    }

    /// The setting that makes crivet serve them.
    pub fn setting(&self) -> String {
        format!("metricsAddress: {}\n", self.0)
    }

    /// The vetter serves them, and the relay does not wait for it.
    pub fn wait(&self) {
        wait_for("the metrics", Duration::from_secs(10), || self.page());
    }

    pub fn page(&self) -> Option<String> {
        let reply = http::request(&self.0, "GET", "/metrics", &[], &[]).ok()?;
        String::from_utf8(reply.body).ok()
    }
}

/// A sample's value, if there is one; `name` with its labels in the order of the page.
pub fn sample(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}
