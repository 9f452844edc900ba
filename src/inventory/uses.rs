//! What there is to judge: each use of an image on the node. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::listed::Listed;
use crate::cri::facts::{OF_ONE_POD, ROLE_IMAGE, ROLE_PAUSE};
use crate::cri::v1::{Container, Image, ImageSpec, PodSandbox, PodSandboxState};
use crate::image::{ImageId, ImageName};
use crate::vetter::wire::{Call, ImageUse};

/// The annotation by which the kubelet says where it has a pod from.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Pods that no API server knows of: they have to start before there is one.
const STATIC_SOURCES: [&str; 2] = ["file", "http"];

/// An image as it is used, or only there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The pod's namespace; empty for an image that is not in use.
    pub namespace: String,
    /// The pod; empty where it is all of the namespace (the pause image).
    pub pod: String,
    /// The container; empty for the pause image.
    pub container: String,
    /// What the image is used for, as in a call: `image`, `mounts[0].image`, `pause image`; empty: not in use.
    pub role: String,
    /// The pod's own words for the image.
    pub reference: String,
    /// The image's ID, else what the runtime calls it.
    pub image: String,
    /// The pod's labels, but for those that each pod has its own of.
    pub labels: BTreeMap<String, String>,
    /// The pod is a static one.
    pub static_pod: bool,
    /// The runtime does not say what the pod called the image: a name that the image has now stands in for it.
    pub guessed: bool,
    /// Why there is nothing to judge; then it is undecided.
    pub trouble: String,
    /// The ID of the container, or of a sandbox; empty where nothing stands on the image.
    pub made: String,
}

/// What is judged once for all uses that are equal in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The image's ID.
    pub image: String,
    /// The pod's words.
    pub reference: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// As a call has it.
    pub role: String,
}

impl Use {
    /// Whether something runs on it now.
    pub fn is_running(&self) -> bool {
        !self.role.is_empty()
    }

    /// What is asked about it. `namespace` stands in where the image is not in use.
    pub fn question(&self, namespace: &str) -> Question {
        let namespace = if self.is_running() { &self.namespace } else { namespace };
        Question {
            image: self.image.clone(),
            reference: self.reference.clone(),
            namespace: namespace.to_owned(),
            labels: self.labels.clone(),
            // A container's image and its volumes are judged alike.
            role: if self.role == ROLE_PAUSE { ROLE_PAUSE } else { ROLE_IMAGE }.to_owned(),
        }
    }
}

impl Question {
    /// The question as the vetter is asked it.
    pub fn call(&self, keep_nothing: bool) -> Call {
        let image = ImageUse {
            named: self.image.clone(),
            reference: self.reference.clone(),
            role: self.role.clone(),
            ..Default::default()
        };
        let (namespace, labels) = (self.namespace.clone(), self.labels.clone());
        Call { namespace, labels, images: vec![image], keep_nothing, ..Default::default() }
    }
}

/// All uses, sorted. With `namespace` only what runs there; images that are not in use are among them either way.
pub fn uses(listed: &Listed, namespace: Option<&str>) -> Vec<Use> {
    let sandboxes: BTreeMap<&str, &PodSandbox> =
        listed.sandboxes.iter().map(|sandbox| (sandbox.id.as_str(), sandbox)).collect();
    let mut uses = Vec::new();
    for container in &listed.containers {
        let sandbox = sandboxes.get(container.pod_sandbox_id.as_str()).copied();
        let of_pod = of_pod(sandbox, container);
        let image = used(listed, &of_pod, id_of(container), container.image.clone(), ROLE_IMAGE.to_owned());
        uses.push(Use { made: container.id.clone(), ..image });
        let volumes = listed.volumes.get(&container.id).into_iter().flatten();
        for (number, spec) in volumes.enumerate() {
            let role = format!("image volume {}", number + 1);
            uses.push(used(listed, &of_pod, spec.image.clone(), Some(spec.clone()), role));
        }
    }
    uses.extend(pause(listed));
    // In use by any container, whatever is shown.
    let in_use: BTreeSet<&str> = uses.iter().map(|each| each.image.as_str()).collect();
    let idle: Vec<Use> = listed
        .images
        .iter()
        .filter(|image| !in_use.contains(image.id.as_str()))
        .flat_map(|image| {
            names(image).into_iter().map(|name| Use {
                reference: name,
                image: image.id.clone(),
                ..Use::default()
            })
        })
        .collect();
    if let Some(namespace) = namespace {
        uses.retain(|each| each.namespace == namespace);
    }
    uses.extend(idle);
    uses.sort();
    uses.dedup();
    uses
}

fn of_pod(sandbox: Option<&PodSandbox>, container: &Container) -> Use {
    let metadata = sandbox.and_then(|sandbox| sandbox.metadata.clone()).unwrap_or_default();
    let labels = sandbox.iter().flat_map(|sandbox| &sandbox.labels);
    let labels = labels.filter(|(key, _)| !OF_ONE_POD.contains(&key.as_str()));
    Use {
        namespace: metadata.namespace,
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        pod: metadata.name,
        container: container.metadata.clone().unwrap_or_default().name,
        static_pod: sandbox.is_some_and(is_static),
        ..Use::default()
    }
}

fn is_static(sandbox: &PodSandbox) -> bool {
    let source = sandbox.annotations.get(CONFIG_SOURCE);
    source.is_some_and(|source| STATIC_SOURCES.contains(&source.as_str()))
}

/// The ID of a container's image: newer runtimes say it, containerd 1.x has it for the reference.
fn id_of(container: &Container) -> String {
    let named = container.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
    let said = [container.image_id.as_str(), container.image_ref.as_str(), named];
    let id = said.into_iter().find(|said| ImageId::parse(said).is_ok());
    id.or(said.into_iter().find(|said| !said.is_empty())).unwrap_or_default().to_owned()
}

fn used(listed: &Listed, of_pod: &Use, image: String, spec: Option<ImageSpec>, role: String) -> Use {
    let spec = spec.unwrap_or_default();
    let is_reference = matches!(ImageName::parse(&spec.image), Ok(ImageName::Reference(_)));
    let (reference, guessed) = if !spec.user_specified_image.is_empty() {
        (spec.user_specified_image, false)
    } else if is_reference {
        (spec.image, false)
    } else {
        let known = listed.images.iter().find(|listed| listed.id == image);
        (known.and_then(|image| names(image).into_iter().next()).unwrap_or_default(), true)
    };
    Use { role, reference, image, guessed, ..of_pod.clone() }
}

/// The names an image has: its tags, else its digests, else none.
fn names(image: &Image) -> Vec<String> {
    let mut names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags }.clone();
    names.sort();
    names.dedup();
    if names.is_empty() { vec![String::new()] } else { names }
}

/// The pause image, once for each namespace with a pod: what every new pod there stands on.
fn pause(listed: &Listed) -> Vec<Use> {
    let mut namespaces: BTreeMap<String, (bool, String)> = BTreeMap::new();
    for sandbox in listed.sandboxes.iter().filter(|s| s.state() == PodSandboxState::SandboxReady) {
        let namespace = sandbox.metadata.clone().unwrap_or_default().namespace;
        let (static_pod, made) = namespaces.entry(namespace).or_default();
        *static_pod |= is_static(sandbox);
        made.clone_from(&sandbox.id);
    }
    if namespaces.is_empty() {
        namespaces.insert(String::new(), Default::default());
    }
    let uses = namespaces.into_iter().map(|(namespace, (static_pod, made))| Use {
        made,
        namespace,
        role: ROLE_PAUSE.to_owned(),
        reference: listed.pause.name.clone(),
        image: listed.pause.id.clone(),
        static_pod,
        trouble: listed.pause.trouble.clone(),
        ..Use::default()
    });
    uses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{ContainerMetadata, PodSandboxMetadata};
    use crate::inventory::listed::Pause;

    fn id(word: char) -> String {
        format!("sha256:{}", word.to_string().repeat(64))
    }

    fn image(word: char, tags: &[&str]) -> Image {
        Image { id: id(word), repo_tags: tags.iter().map(|&tag| tag.into()).collect(), ..Default::default() }
    }

    fn sandbox(name: &str, namespace: &str, source: &str) -> PodSandbox {
        let metadata =
            PodSandboxMetadata { name: name.into(), namespace: namespace.into(), ..Default::default() };
        PodSandbox {
            id: name.into(),
            metadata: Some(metadata),
            annotations: [(CONFIG_SOURCE.to_owned(), source.to_owned())].into(),
            ..Default::default()
        }
    }

    fn container(pod: &str, word: char, reference: &str) -> Container {
        let image =
            ImageSpec { image: id(word), user_specified_image: reference.into(), ..Default::default() };
        Container {
            id: format!("{pod}-{word}"),
            pod_sandbox_id: pod.into(),
            metadata: Some(ContainerMetadata { name: "main".into() }),
            image_ref: id(word),
            image: Some(image),
            ..Default::default()
        }
    }

    fn node() -> Listed {
        Listed {
            images: vec![
                image('a', &["r.test/a:1"]),
                image('b', &["r.test/b:1", "r.test/b:2"]),
                image('p', &[]),
            ],
            sandboxes: vec![sandbox("web", "prod", "api")],
            containers: vec![container("web", 'a', "r.test/a:stable")],
            pause: Pause { name: "r.test/pause:3".into(), id: id('p'), ..Pause::default() },
            ..Listed::default()
        }
    }

    fn find<'a>(uses: &'a [Use], role: &str) -> Vec<&'a Use> {
        uses.iter().filter(|each| each.role == role).collect()
    }

    #[test]
    fn a_container_is_judged_under_the_pods_own_words_in_its_namespace() {
        let uses = uses(&node(), None);
        let [web] = find(&uses, ROLE_IMAGE)[..] else { panic!("{uses:?}") };
        assert_eq!(
            (web.namespace.as_str(), web.pod.as_str(), web.container.as_str()),
            ("prod", "web", "main")
        );
        assert_eq!((web.reference.as_str(), web.image.as_str()), ("r.test/a:stable", id('a').as_str()));
        assert!(!web.static_pod && !web.guessed);
        assert_eq!(web.question("else").namespace, "prod");
    }

    #[test]
    fn a_container_is_judged_by_its_pods_labels_but_for_those_of_one_pod() {
        let mut listed = node();
        let labels =
            [("team", "payments"), ("io.kubernetes.pod.name", "web"), ("io.kubernetes.pod.uid", "0a1b")];
        listed.sandboxes[0].labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let uses = uses(&listed, None);
        let [web] = find(&uses, ROLE_IMAGE)[..] else { panic!("{uses:?}") };
        let call = web.question("else").call(false);
        assert_eq!(call.labels, [("team".to_owned(), "payments".to_owned())].into());
    }

    #[test]
    fn a_static_pod_is_marked_and_one_of_the_api_server_is_not() {
        let mut listed = node();
        listed.sandboxes = vec![sandbox("web", "kube-system", "file")];
        let of = |listed: &Listed| uses(listed, None).into_iter().filter(|each| each.static_pod).count();
        assert_eq!(of(&listed), 2, "the container and the pause image below it");
        listed.sandboxes = vec![sandbox("web", "kube-system", "http")];
        assert_eq!(of(&listed), 2);
        assert_eq!(of(&node()), 0);
    }

    #[test]
    fn an_image_that_is_not_in_use_is_there_under_each_of_its_names() {
        let uses = uses(&node(), None);
        let idle: Vec<_> = find(&uses, "").iter().map(|each| each.reference.clone()).collect();
        assert_eq!(idle, ["r.test/b:1", "r.test/b:2"]);
        assert!(
            uses.iter().filter(|each| !each.is_running()).all(|each| each.question("x").namespace == "x")
        );
    }

    #[test]
    fn without_the_pods_words_a_name_of_the_image_stands_in_and_says_so() {
        let mut listed = node();
        listed.containers = vec![container("web", 'b', "")];
        let uses = uses(&listed, None);
        let [web] = find(&uses, ROLE_IMAGE)[..] else { panic!("{uses:?}") };
        assert_eq!((web.reference.as_str(), web.guessed), ("r.test/b:1", true));
    }

    #[test]
    fn an_image_volume_is_a_use_of_its_own() {
        let mut listed = node();
        let volume =
            ImageSpec { image: id('b'), user_specified_image: "r.test/b:2".into(), ..Default::default() };
        listed.volumes.insert("web-a".into(), vec![volume]);
        let uses = uses(&listed, None);
        let [volume] = find(&uses, "image volume 1")[..] else { panic!("{uses:?}") };
        assert_eq!((volume.pod.as_str(), volume.reference.as_str()), ("web", "r.test/b:2"));
        assert_eq!(find(&uses, ""), Vec::<&Use>::new(), "an image that is mounted is in use");
    }

    #[test]
    fn the_pause_image_is_judged_for_each_namespace_with_a_pod() {
        let mut listed = node();
        listed.sandboxes.push(sandbox("other", "dev", "api"));
        listed.sandboxes.push(sandbox("third", "dev", "api"));
        let all = uses(&listed, None);
        let namespaces: Vec<_> = find(&all, ROLE_PAUSE).iter().map(|each| each.namespace.clone()).collect();
        assert_eq!(namespaces, ["dev", "prod"]);
        listed.pause = Pause { trouble: "not known".into(), ..Pause::default() };
        let all = uses(&listed, None);
        assert!(find(&all, ROLE_PAUSE).iter().all(|each| each.trouble == "not known"));
        listed.sandboxes.clear();
        assert_eq!(find(&uses(&listed, None), ROLE_PAUSE).len(), 1, "the next pod needs it too");
    }

    #[test]
    fn of_one_namespace_only_what_runs_there_is_shown() {
        let mut listed = node();
        listed.sandboxes.push(sandbox("other", "dev", "api"));
        listed.containers.push(container("other", 'b', "r.test/b:1"));
        let uses = uses(&listed, Some("prod"));
        assert!(uses.iter().filter(|each| each.is_running()).all(|each| each.namespace == "prod"));
        assert_eq!(find(&uses, ""), Vec::<&Use>::new(), "what runs elsewhere is in use");
    }
}
