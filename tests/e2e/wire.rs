//! The field numbers of proto/cri.proto, held against what a real kubelet and a real containerd say.

use crate::support::containerd::Containerd;
use crate::support::image::Image;
use crate::support::kubelet::Kubelet;
use crate::support::node::{Node, Setup};
use crate::support::peers::Peers;
use crate::support::recorder::{Recorded, Recorder};
use crate::support::registry::Registry;
use crate::support::{crictl::Crictl, free_port, http, wait_for};
use crivet::cri::runtime::RuntimeClient;
use crivet::cri::unknown::unknown_fields;
use crivet::cri::v1::{
    CreateContainerRequest, CreateContainerResponse, PullImageRequest, PullImageResponse,
    RunPodSandboxRequest, RunPodSandboxResponse,
};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a request and its response say; neither has a field that crivet has never heard of.
fn decode<Req: Message + Default, Resp: Message + Default>(call: &Recorded) -> (Req, Resp) {
    assert_nothing_unknown(call);
    (Req::decode(call.request.clone()).unwrap(), Resp::decode(call.response.clone()).unwrap())
}

fn assert_nothing_unknown(call: &Recorded) {
    let (request, response) = (format!("{}Request", call.method), format!("{}Response", call.method));
    assert_eq!(unknown_fields(&request, &call.request), [""; 0]);
    assert_eq!(unknown_fields(&response, &call.response), [""; 0]);
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn a_kubelets_calls_say_what_they_were_meant_to(setup: &Setup<'_>) {
    let metrics = format!("127.0.0.1:{}", free_port());
    let settings = format!("metricsAddress: {metrics}\n");
    let Some(node) = Node::start(&Setup { settings: &settings, ..*setup }) else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let recorder = Recorder::start(node.peers.path(), &node.crivet.socket());
    let kubelet = Kubelet::start(&node.peers, recorder.socket());
    kubelet.add_pod("app", &signed.reference, &json!({}));
    let pod = kubelet.wait_pod("app", Duration::from_secs(60), |pod| pod.ready());
    let only = |method| match recorder.calls(method).as_slice() {
        [call] => call.clone(),
        calls => panic!("{} calls of {method}", calls.len()),
    };
    // What containerd kept of them, as crictl reads it with the types of Kubernetes itself.
    let listed = node.containerd.crictl().json(["pods", "-o", "json"]).unwrap()["items"][0].clone();
    let uid = pod.0["metadata"]["annotations"]["kubernetes.io/config.hash"].as_str().unwrap();
    let names = ("app-node".to_owned(), "e2e".to_owned(), uid.to_owned());
    let labels: BTreeMap<String, String> = serde_json::from_value(listed["labels"].clone()).unwrap();
    assert!(labels.len() >= 3 && labels["io.kubernetes.pod.uid"] == uid, "{labels:?}");

    let (run, made): (RunPodSandboxRequest, RunPodSandboxResponse) = decode(&only("RunPodSandbox"));
    assert_eq!(made.pod_sandbox_id, listed["id"]);
    let (pull, pulled): (PullImageRequest, PullImageResponse) = decode(&only("PullImage"));
    assert_eq!(pulled.image_ref, signed.id);
    let image = pull.image.unwrap();
    assert_eq!(image.image, signed.reference);
    assert_eq!(image.annotations["kubernetes.io/config.source"], "file");
    assert_eq!(pull.auth, None);
    let (create, created): (CreateContainerRequest, CreateContainerResponse) =
        decode(&only("CreateContainer"));
    assert_eq!(node.containers(), created.container_id);
    assert_eq!(create.pod_sandbox_id, made.pod_sandbox_id);
    let config = create.config.unwrap();
    assert_eq!(config.metadata.unwrap().name, "main");
    let image = config.image.unwrap();
    assert_eq!((image.image, image.user_specified_image), (signed.id.clone(), signed.reference.clone()));
    for config in [run.config, pull.sandbox_config, create.sandbox_config] {
        let config = config.unwrap();
        let metadata = config.metadata.unwrap();
        assert_eq!((metadata.name, metadata.namespace, metadata.uid), names);
        assert_eq!(config.labels, labels);
    }

    let of_create = |r: &Value| r["kind"] == "CreateContainer";
    let record =
        wait_for("the record", Duration::from_secs(5), || node.crivet.audit().into_iter().find(of_create));
    let said =
        ["namespace", "pod", "podUid", "container", "imageId", "digest"].map(|key| record[key].clone());
    assert_eq!(said, ["e2e", "app-node", uid, "main", &signed.id, &signed.digest].map(Value::from));
    let page = http::request(&metrics, "GET", "/metrics", &[], &[]).unwrap().body;
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("\ncrivet_unknown_fields_total 0\n"), "{page}");
    assert!(!node.crivet.log().contains("never heard of"));
}

#[test]
fn a_kubelets_calls_on_containerd_1_6_say_what_they_were_meant_to() {
    a_kubelets_calls_say_what_they_were_meant_to(&Setup::default());
}

#[test]
fn a_kubelets_calls_on_containerd_2_say_what_they_were_meant_to() {
    a_kubelets_calls_say_what_they_were_meant_to(&Setup::on_containerd_2());
}

fn containerds_answers_say_what_crictl_reads(version: &str) {
    let Some(peers) = Peers::get() else { return };
    let registry = Registry::start(&peers);
    let containerd = Containerd::start(&peers, version, &registry);
    let recorder = Recorder::start(peers.path(), containerd.socket());
    let crictl = Crictl::new(&peers, recorder.socket());
    let pushed = Image::says(&peers, "an image").push(&registry, "app", "1");
    crictl.pull(&pushed.reference).unwrap();
    crictl.start("app", &pushed).unwrap();
    let status = crictl.json(["inspecti", "-o", "json", &pushed.reference]).unwrap()["status"].clone();
    let images = crictl.json(["images", "-o", "json"]).unwrap()["images"].clone();
    let info = crictl.json(["info", "-o", "json"]).unwrap();
    let name_and_version = crictl.run(["version"]).unwrap();

    for method in
        ["PullImage", "RunPodSandbox", "CreateContainer", "ImageStatus", "ListImages", "Status", "Version"]
    {
        let calls = recorder.calls(method);
        assert!(!calls.is_empty(), "no {method}");
        calls.iter().for_each(assert_nothing_unknown);
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = RuntimeClient::new(containerd.socket(), containerd.socket());
        let image = client.image_status(&pushed.reference).await.unwrap().unwrap();
        assert_eq!(image.id, status["id"]);
        assert_eq!(
            (image.repo_tags, image.repo_digests),
            (strings(&status["repoTags"]), strings(&status["repoDigests"]))
        );
        assert!(!image.pinned && status["pinned"] == false);
        assert_eq!(client.image_status("127.0.0.1:1/absent:1").await.unwrap(), None);

        let pinned: Vec<_> =
            images.as_array().unwrap().iter().filter(|image| image["pinned"] == true).collect();
        let found = client.pinned_images().await.unwrap();
        assert_eq!(
            found.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(),
            pinned.iter().map(|image| image["id"].as_str().unwrap()).collect::<Vec<_>>()
        );
        assert_eq!(found.len(), usize::from(!version.starts_with("1.6")), "{found:?}");

        let said = client.status_info().await.unwrap();
        let config: Value = serde_json::from_str(&said["config"]).unwrap();
        assert_eq!(config, info["config"]);
        let version = client.version().await.unwrap();
        for part in [version.runtime_name, version.runtime_version] {
            assert!(!part.is_empty() && name_and_version.contains(&part), "{name_and_version}");
        }
    });
}

#[test]
fn containerd_1_6s_answers_say_what_crictl_reads() {
    containerds_answers_say_what_crictl_reads("1.6");
}

#[test]
fn containerd_2s_answers_say_what_crictl_reads() {
    containerds_answers_say_what_crictl_reads("2");
}
