//! The runtimes: one that answers at once, in a process of its own, and a real containerd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::{UnixListener, UnixStream};

use crate::VERSION;
use crate::contenders::listens;
use crate::load::Client;

pub struct Runtime {
    pub socket: PathBuf,
    pub version: String,
    process: Child,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

impl Runtime {
    pub async fn fake(folder: &Path) -> Runtime {
        let socket = folder.join("runtime.sock");
        let process =
            Command::new(std::env::current_exe().unwrap()).arg("runtime").arg(&socket).spawn().unwrap();
        listens("the runtime", &socket).await;
        Runtime { socket, version: String::new(), process }
    }

    /// A containerd of the tests' cache with everything it has in `folder`.
    pub async fn containerd(folder: &Path) -> Result<Runtime, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it needs root".to_owned());
        }
        let program = crate::contenders::program("../containerd-2/containerd")
            .ok_or("it is not installed; `make bench-peers`")?;
        let at = folder.display();
        let socket = folder.join("runtime.sock");
        let text = format!(
            "version = 3\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.nri.v1.nri\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n[grpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{at}/opt\"\n",
            socket.display(),
        );
        let config = folder.join("containerd.toml");
        std::fs::write(&config, text).unwrap();
        let version = Command::new(&program).arg("--version").output().map_err(|error| error.to_string())?;
        let version =
            String::from_utf8_lossy(&version.stdout).split_whitespace().nth(2).unwrap_or("?").to_owned();
        let mut command = Command::new(program);
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(|error| error.to_string())?;
        let runtime = Runtime { socket, version, process };
        listens("containerd", &runtime.socket).await;
        let client = Client::connect(&runtime.socket).await;
        for _ in 0..1000 {
            // The CRI comes a while after the socket.
            if client.try_call(VERSION).await.1 == "0" {
                return Ok(runtime);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("it does not answer the CRI".to_owned())
    }
}

/// Serves until it is killed: `Version` with a message of 60 bytes, everything else with 1 MiB.
pub fn serve(socket: &Path) {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    threads.block_on(async {
        let listener = UnixListener::bind(socket).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream));
        }
    });
}

async fn connection(stream: UnixStream) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static(""));
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let trailers = trailers.clone();
        tokio::spawn(async move {
            let small = request.uri().path().ends_with("/Version");
            let mut body = request.into_body();
            while let Some(Ok(chunk)) = body.data().await {
                let _ = body.flow_control().release_capacity(chunk.len());
            }
            let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            let mut data = Bytes::from(vec![0; if small { 65 } else { 1 << 20 }]);
            while !data.is_empty() {
                stream.reserve_capacity(data.len());
                let Some(Ok(capacity)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                if stream.send_data(data.split_to(capacity.min(data.len())), false).is_err() {
                    return;
                }
            }
            let _ = stream.send_trailers(trailers);
        });
    }
}
