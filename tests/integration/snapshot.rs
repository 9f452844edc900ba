//! What a container stands on, by containerd's word.

use crivet::cri::containerd::containers::container::Runtime;
use crivet::cri::containerd::containers::{Container, GetContainerRequest, GetContainerResponse};
use crivet::cri::containerd::snapshots::{Info, StatSnapshotRequest, StatSnapshotResponse};
use crivet::cri::runtime::{MadeBy, RuntimeClient, RuntimeError, Under};
use crivet::cri::v1::VersionResponse;
use prost::Message;

use crate::support::client::VERSION;
use crate::support::daemon::Place;
use crate::support::runtime::FakeRuntime;

const GET: &str = "/containerd.services.containers.v1.Containers/Get";
const STAT: &str = "/containerd.services.snapshots.v1.Snapshots/Stat";

/// A containerd in which a container's snapshot has its ID for a key, or what comes after a `=` in it, and is one
/// of overlayfs, or native if the ID begins so; each stands on its snapshotter and key. Keys in `no` are not there.
fn containerd(place: &Place) -> FakeRuntime {
    FakeRuntime::start(place.path(), |mut call| async move {
        let message = call.read().await.unwrap().data.split_off(5);
        if call.path() == VERSION {
            let version = VersionResponse { runtime_name: "containerd".to_owned(), ..Default::default() };
            return call.answer(&version.encode_to_vec()).await;
        }
        if call.path() == GET {
            let GetContainerRequest { id } = Message::decode(&*message).unwrap();
            let snapshotter = if id.starts_with("native") { "native" } else { "overlayfs" }.to_owned();
            let snapshot_key = id.split_once('=').map_or(&*id, |(_, key)| key).to_owned();
            let runtime = Some(Runtime { name: "io.containerd.runc.v2".to_owned() });
            let container = Container { snapshotter, snapshot_key, runtime, ..Default::default() };
            return call.answer(&GetContainerResponse { container: Some(container) }.encode_to_vec()).await;
        }
        assert_eq!(call.path(), STAT);
        let StatSnapshotRequest { snapshotter, key } = Message::decode(&*message).unwrap();
        if key.starts_with("no") {
            return call.trailers_only(5, "no snapshot");
        }
        let info = Info { parent: format!("{snapshotter} {key}"), ..Default::default() };
        call.answer(&StatSnapshotResponse { info: Some(info) }.encode_to_vec()).await;
    })
}

#[tokio::test]
async fn the_snapshot_is_the_container_s_own_whatever_was_guessed() {
    let place = Place::new();
    let runtime = containerd(&place);
    let client = RuntimeClient::new(runtime.socket(), runtime.socket());
    // What the runtime is, once.
    let mut asked = 1;
    for (id, snapshotter, key, questions) in [
        ("first", "overlayfs", "first", 2),
        ("second", "overlayfs", "second", 2),
        ("a=other", "overlayfs", "other", 3),
        ("no=other", "overlayfs", "other", 3),
        ("native1", "native", "native1", 3),
        ("native2", "native", "native2", 2),
        ("third", "overlayfs", "third", 3),
    ] {
        let made_by =
            MadeBy { snapshotter: snapshotter.to_owned(), runtime: "io.containerd.runc.v2".to_owned() };
        let under = Under { chain_id: format!("{snapshotter} {key}"), made_by: Some(made_by) };
        assert_eq!(client.layers_under(id).await, Ok(under), "{id}");
        asked += questions;
        assert_eq!(runtime.seen().len(), asked, "{id}");
    }
}

#[tokio::test]
async fn a_container_without_a_snapshot_is_an_error_guessed_or_not() {
    let place = Place::new();
    let runtime = containerd(&place);
    let client = RuntimeClient::new(runtime.socket(), runtime.socket());
    for _ in 0..2 {
        let none = Err(RuntimeError::NotFound("no snapshot".to_owned()));
        assert_eq!(client.layers_under("none").await, none);
        client.layers_under("first").await.unwrap();
    }
}
