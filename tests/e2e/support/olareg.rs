//! olareg on loopback: a registry that has the referrers API, in memory. docker-registry has none.

use super::daemon::Daemon;
use super::http;
use super::peers::Peers;
use std::time::Duration;

pub struct Olareg {
    daemon: Daemon,
    address: String,
}

impl Olareg {
    /// `page`: how many bytes of a list of referrers one answer may hold; the rest is on further pages.
    pub fn start(peers: &Peers, page: Option<usize>) -> Self {
        let address = format!("127.0.0.1:{}", super::free_port());
        let mut arguments = vec!["-address".to_owned(), address.clone()];
        if let Some(bytes) = page {
            arguments.extend(["-page-bytes".to_owned(), bytes.to_string()]);
        }
        let name = format!("olareg-{address}");
        let mut daemon = Daemon::start(peers, &name, &peers.program("olareg"), arguments, &[]);
        daemon
            .wait_ready(Duration::from_secs(20), || http::request(&address, "GET", "/v2/", &[], &[]).is_ok());
        Self { daemon, address }
    }

    /// The requests of one program, by how its `User-Agent` starts, oldest first.
    pub fn requests_of(&self, agent: &str) -> Vec<String> {
        let log = self.daemon.log();
        let fields = log.lines().map(|line| line.split('"').collect::<Vec<_>>());
        let of_agent = fields.filter(|f| f.get(3).is_some_and(|found| found.starts_with(agent)));
        of_agent.map(|f| f[1].to_owned()).collect()
    }

    /// `127.0.0.1:<port>`: what an image reference starts with.
    pub fn address(&self) -> &str {
        &self.address
    }
}
