//! The real parts under test, started in a scratch folder of their own and gone when the test ends.

pub mod api_server;
#[path = "../../integration/support/collector.rs"]
pub mod collector;
pub mod containerd;
pub mod cosign;
pub mod cri;
pub mod crictl;
pub mod crio;
pub mod critest;
pub mod crivet;
pub mod daemon;
pub mod fixture;
pub mod http;
pub mod image;
pub mod kubelet;
pub mod machine;
pub mod machine_node;
pub mod measured;
pub mod metrics;
pub mod node;
pub mod olareg;
pub mod package;
pub mod peers;
pub mod probe;
pub mod recorder;
pub mod registry;
pub mod scratch;
pub mod secured;
pub mod tokens;

use std::time::{Duration, Instant};

/// Asks `probe` until it has an answer; panics, naming `what`, when there is none within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A TCP port on loopback that nobody listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
