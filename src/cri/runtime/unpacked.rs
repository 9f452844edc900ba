//! What containerd has of images on its disk: which there are, their layers, and the folders these were unpacked into.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::super::containerd::content::{InfoRequest, ReadContentResponse};
use super::super::containerd::images::{ListImagesRequest, images_client::ImagesClient};
use super::super::containerd::leases::{CreateRequest, DeleteRequest, leases_client::LeasesClient};
use super::super::containerd::snapshots::{
    Info, Kind, ListSnapshotsRequest, RemoveSnapshotRequest, ViewSnapshotRequest,
};
use super::super::v1::{ImageSpec, RemoveImageRequest};
use super::{
    ContentClient, ReadContentRequest, RuntimeClient, RuntimeError, SnapshotsClient, failed, in_k8s, limits,
    stat, timed,
};
use crate::audit::rfc3339;

/// A label of a config: what follows is a snapshotter's name, its value the chain ID of what was unpacked.
const UNPACKED_BY: &str = "containerd.io/gc.ref.snapshot.";
/// A label of a lease: when it ends by itself.
const EXPIRES: &str = "containerd.io/gc.expire";

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The one below it; empty: there is none.
    pub parent: String,
    /// When the runtime made it: tells it from one of the same name that is made later.
    pub created: String,
    /// An unpacked layer; else something is or was run on it, or looks at it.
    pub committed: bool,
}

/// What a mount would be made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `overlay`, `bind` or another.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// With which options.
    pub options: Vec<String>,
}

impl Snapshot {
    fn of(info: Info) -> (String, Snapshot) {
        let committed = info.kind() == Kind::Committed;
        let created = info.created_at.unwrap_or_default();
        let created = format!("{}.{:09}", created.seconds, created.nanos);
        (info.name, Snapshot { parent: info.parent, created, committed })
    }
}

/// A blob that is being read.
pub struct Blob(tonic::Streaming<ReadContentResponse>);

impl Blob {
    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// It cannot be read; of the first, also that there is no such blob.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RuntimeError> {
        let piece = self.0.message().await.map_err(|s| failed("content.Read", s))?;
        Ok(piece.map(|piece| piece.data))
    }
}

impl RuntimeClient {
    /// The names of containerd's images with the digest that each leads to.
    pub async fn image_targets(&self) -> Result<Vec<(String, String)>, RuntimeError> {
        let mut client =
            ImagesClient::new(self.image.clone()).max_decoding_message_size(limits::RUNTIME_MESSAGE_BYTES);
        let response = client.list(in_k8s(ListImagesRequest {})).await;
        let images = response.map_err(|s| failed("images.List", s))?.into_inner().images;
        Ok(images.into_iter().map(|image| (image.name, image.target.unwrap_or_default().digest)).collect())
    }

    /// By which snapshotters an image was unpacked, by the digest of its config.
    pub async fn unpacked_by(&self, config: &str) -> Result<Vec<String>, RuntimeError> {
        let request = in_k8s(InfoRequest { digest: config.to_owned() });
        let response = ContentClient::new(self.image.clone()).info(request).await;
        let labels =
            response.map_err(|s| failed("content.Info", s))?.into_inner().info.unwrap_or_default().labels;
        let names = labels.keys().filter_map(|label| label.strip_prefix(UNPACKED_BY));
        Ok(names.map(str::to_owned).collect())
    }

    /// A blob of any size, unverified, piece by piece.
    pub async fn blob(&self, digest: &str) -> Result<Blob, RuntimeError> {
        let mut request = in_k8s(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        // Without a deadline: a layer takes the time that it takes.
        request.metadata_mut().remove("grpc-timeout");
        let mut client =
            ContentClient::new(self.image.clone()).max_decoding_message_size(limits::RUNTIME_MESSAGE_BYTES);
        let response = client.read(request).await;
        Ok(Blob(response.map_err(|s| failed("content.Read", s))?.into_inner()))
    }

    /// What the runtime says of a snapshot.
    pub async fn snapshot(&self, snapshotter: &str, key: &str) -> Result<Snapshot, RuntimeError> {
        Ok(Snapshot::of(stat(self.image.clone(), snapshotter, key).await?).1)
    }

    /// All snapshots of a snapshotter, by name.
    pub async fn snapshots(&self, snapshotter: &str) -> Result<BTreeMap<String, Snapshot>, RuntimeError> {
        let request = in_k8s(ListSnapshotsRequest { snapshotter: snapshotter.to_owned() });
        let response = SnapshotsClient::new(self.image.clone()).list(request).await;
        let mut stream = response.map_err(|s| failed("snapshots.List", s))?.into_inner();
        let mut all = BTreeMap::new();
        while let Some(some) = stream.message().await.map_err(|s| failed("snapshots.List", s))? {
            all.extend(some.info.into_iter().map(Snapshot::of));
        }
        Ok(all)
    }

    /// Removes an image under all its names, and waits until what only it had is collected.
    pub async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        let image = Some(ImageSpec { image: id.to_owned(), ..Default::default() });
        let request = timed(RemoveImageRequest { image });
        self.images().remove_image(request).await.map_err(|s| failed("RemoveImage", s))?;
        Ok(())
    }

    /// A lease: what is made under it is kept until it ends.
    pub async fn begin_lease(&self, id: &str, until: SystemTime) -> Result<(), RuntimeError> {
        let labels = BTreeMap::from([(EXPIRES.to_owned(), rfc3339(until))]);
        let request = in_k8s(CreateRequest { id: id.to_owned(), labels });
        LeasesClient::new(self.image.clone())
            .create(request)
            .await
            .map_err(|s| failed("leases.Create", s))?;
        Ok(())
    }

    /// Ends a lease; what only it has kept is removed.
    pub async fn end_lease(&self, id: &str) -> Result<(), RuntimeError> {
        let request = in_k8s(DeleteRequest { id: id.to_owned(), sync: true });
        LeasesClient::new(self.image.clone())
            .delete(request)
            .await
            .map_err(|s| failed("leases.Delete", s))?;
        Ok(())
    }

    /// A view of a snapshot, under a lease, and what would have to be mounted to see it. Nothing is mounted. As long as the view is
    /// there, nothing of what is under it is removed.
    pub async fn view(
        &self,
        lease: &str,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<Vec<Mount>, RuntimeError> {
        let view = ViewSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
        };
        let mut request: Request<_> = in_k8s(view);
        let lease = MetadataValue::try_from(lease).map_err(|_| RuntimeError::Failed {
            call: "snapshots.View",
            reason: "the lease's name is none".to_owned(),
        })?;
        request.metadata_mut().insert("containerd-lease", lease);
        let response = SnapshotsClient::new(self.image.clone()).view(request).await;
        let mounts = response.map_err(|s| failed("snapshots.View", s))?.into_inner().mounts;
        Ok(mounts
            .into_iter()
            .map(|mount| Mount { kind: mount.r#type, source: mount.source, options: mount.options })
            .collect())
    }

    /// Removes a view.
    pub async fn remove_view(&self, snapshotter: &str, key: &str) -> Result<(), RuntimeError> {
        let request =
            in_k8s(RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() });
        let response = SnapshotsClient::new(self.image.clone()).remove(request).await;
        response.map_err(|s| failed("snapshots.Remove", s))?;
        Ok(())
    }
}
