//! Lists of referrers, from registries that have the API, that lack it, and that misbehave.

use crivet::image::Digest;
use crivet::limits::{REFERRER_ANNOTATION_BYTES, REFERRER_PAGES, REFERRERS};
use crivet::registry::{Cause, Credential, FetchError, Referrers, Violation};
use serde_json::{Value, json};

use super::fake::{Fake, Reply, reply};
use super::{client, repo, serving, soon};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn entry(n: usize) -> Value {
    let digest = Digest::of(n.to_string().as_bytes()).to_string();
    json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": n,
        "artifactType": BUNDLE, "annotations": {"dev.sigstore.bundle.content": "dsse-envelope"}})
}

fn index(entries: &[Value]) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string()
}

fn list(numbers: impl Iterator<Item = usize>, link: Option<&str>) -> Reply {
    let body = index(&numbers.map(entry).collect::<Vec<_>>());
    let link = link.map(|link| ("link", link));
    let headers: Vec<_> = [("content-type", INDEX)].into_iter().chain(link).collect();
    reply(200, &headers, body)
}

fn subject() -> Digest {
    Digest::of(b"image")
}

fn api() -> String {
    format!("/v2/team/app/referrers/{}", subject())
}

fn tag() -> String {
    format!("/v2/team/app/manifests/sha256-{}", subject().hex())
}

async fn ask(fake: &Fake) -> Result<Referrers, FetchError> {
    client().referrers(&repo(fake), &subject(), false, &Credential::Anonymous, soon()).await
}

async fn cause(fake: &Fake) -> Cause {
    ask(fake).await.unwrap_err().cause
}

fn sizes(referrers: &Referrers) -> Vec<u64> {
    referrers.found.iter().map(|found| found.size).collect()
}

fn paths(fake: &Fake) -> Vec<String> {
    fake.seen().into_iter().map(|seen| seen.path).collect()
}

#[tokio::test]
async fn list_of_one_page_costs_one_request() {
    let fake = serving(|_| list(1..4, None)).await;
    let referrers = ask(&fake).await.unwrap();
    assert_eq!(sizes(&referrers), [1, 2, 3]);
    assert!(referrers.incomplete.is_none());
    let first = &referrers.found[0];
    assert_eq!(first.artifact_type.as_deref(), Some(BUNDLE));
    assert_eq!(first.annotations["dev.sigstore.bundle.content"], "dsse-envelope");
    assert_eq!(paths(&fake), [api()]);
}

#[tokio::test]
async fn no_referrers_are_none_without_asking_for_the_tag() {
    let fake = serving(|_| list(0..0, None)).await;
    assert!(ask(&fake).await.unwrap().found.is_empty());
    assert_eq!(paths(&fake), [api()]);
}

#[tokio::test]
async fn pages_are_followed_however_they_are_linked() {
    for link in [
        "<{api}?n=2&last=x>; rel=\"next\"",
        "<?n=2&last=x>; rel=next",
        "<http://{host}{api}?n=2&last=x>;rel=\"next\"",
    ] {
        let host: &'static std::sync::OnceLock<String> = Box::leak(Box::default());
        let fake = serving(move |seen| match seen.path.contains("last=x") {
            false => list(1..3, Some(&link.replace("{api}", &api()).replace("{host}", host.get().unwrap()))),
            true => list(3..5, None),
        })
        .await;
        host.set(fake.host()).unwrap();
        let referrers = ask(&fake).await.unwrap();
        assert_eq!(sizes(&referrers), [1, 2, 3, 4], "{link}");
        assert!(referrers.incomplete.is_none());
        assert_eq!(paths(&fake), [api(), api() + "?n=2&last=x"]);
    }
}

#[tokio::test]
async fn next_page_elsewhere_is_not_asked_and_the_list_is_incomplete() {
    let other = serving(|_| list(3..5, None)).await;
    for link in [
        format!("<http://{}{}>; rel=\"next\"", other.host(), api()),
        "</v2/other/app/referrers/x>; rel=\"next\"".to_owned(),
        "</v2/team/app/../other/referrers/x>; rel=\"next\"".to_owned(),
        "</v2/team/app/%2e%2e/other/x>; rel=\"next\"".to_owned(),
        "<//evil.example/v2/team/app/referrers/x>; rel=\"next\"".to_owned(),
        "</token>; rel=\"next\"".to_owned(),
    ] {
        let sent = link.clone();
        let fake = serving(move |_| list(1..3, Some(&sent))).await;
        let referrers = ask(&fake).await.unwrap();
        assert_eq!(sizes(&referrers), [1, 2], "{link}");
        assert!(matches!(referrers.incomplete.unwrap().cause, Cause::Protocol(_)), "{link}");
        assert_eq!(fake.seen().len(), 1, "{link}");
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn link_that_is_no_next_page_or_none_that_can_be_read() {
    let fake = serving(|_| list(1..3, Some("</v2/>; rel=\"first\""))).await;
    assert!(ask(&fake).await.unwrap().incomplete.is_none());
    let fake = serving(|_| list(1..3, Some("next"))).await;
    let incomplete = ask(&fake).await.unwrap().incomplete.unwrap();
    assert_eq!(incomplete.cause, Cause::Protocol(Violation::BadHeader("Link")));
}

#[tokio::test]
async fn pages_without_end_are_cut_and_the_limit_is_named() {
    let fake = serving(|_| list(1..2, Some(&format!("<{}?again>; rel=\"next\"", api())))).await;
    let referrers = ask(&fake).await.unwrap();
    assert_eq!((fake.seen().len(), referrers.found.len()), (REFERRER_PAGES, REFERRER_PAGES));
    let incomplete = referrers.incomplete.unwrap();
    assert!(incomplete.to_string().contains("REFERRER_PAGES") && !incomplete.is_not_found(), "{incomplete}");
}

#[tokio::test]
async fn too_many_referrers_are_cut_and_the_limit_is_named() {
    for path in [api(), tag()] {
        let fake = serving(move |seen| match seen.path == path {
            true => list(0..REFERRERS + 1, None),
            false => reply(404, &[], ""),
        })
        .await;
        let referrers = ask(&fake).await.unwrap();
        assert_eq!(referrers.found.len(), REFERRERS);
        assert!(referrers.incomplete.unwrap().to_string().contains("REFERRERS"));
    }
}

#[tokio::test]
async fn page_that_is_not_had_leaves_the_list_incomplete() {
    let fake = serving(|seen| match seen.path.contains("last") {
        false => list(1..3, Some("<?last=x>; rel=next")),
        true => reply(404, &[], ""),
    })
    .await;
    let referrers = ask(&fake).await.unwrap();
    assert_eq!(sizes(&referrers), [1, 2]);
    assert!(referrers.incomplete.is_some());
}

#[tokio::test]
async fn registry_without_the_api_is_asked_for_the_tag() {
    for status in [404, 400, 405, 406] {
        let fake = serving(move |seen| match seen.path == tag() {
            true => list(1..3, None),
            false => reply(status, &[], ""),
        })
        .await;
        assert_eq!(sizes(&ask(&fake).await.unwrap()), [1, 2], "{status}");
        assert_eq!(fake.seen().len(), 2);
    }
}

#[tokio::test]
async fn tag_is_got_only_where_head_says_that_it_is_there_if_heads_come_first() {
    for there in [true, false] {
        let fake = serving(move |seen| match there && seen.path == tag() {
            true => list(1..3, None),
            false => reply(404, &[], ""),
        })
        .await;
        let asked = client().referrers(&repo(&fake), &subject(), true, &Credential::Anonymous, soon()).await;
        assert_eq!(sizes(&asked.unwrap()).len(), if there { 2 } else { 0 });
        let methods: Vec<_> = fake.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(methods, if there { vec!["GET", "HEAD", "GET"] } else { vec!["GET", "HEAD"] });
    }
}

#[tokio::test]
async fn answer_of_another_type_is_no_answer_of_the_api() {
    let fake = serving(|seen| match seen.path == tag() {
        true => list(1..3, None),
        false => reply(200, &[("content-type", "application/json")], "{}"),
    })
    .await;
    assert_eq!(sizes(&ask(&fake).await.unwrap()), [1, 2]);
}

#[tokio::test]
async fn neither_api_nor_tag_is_none() {
    let fake = serving(|_| reply(404, &[], "")).await;
    let referrers = ask(&fake).await.unwrap();
    assert!(referrers.found.is_empty() && referrers.incomplete.is_none());
}

#[tokio::test]
async fn refused_login_or_trouble_is_never_none() {
    for status in [401, 403, 429, 500, 501, 503] {
        for where_ in ["/referrers/", "/manifests/"] {
            let fake = serving(move |seen| match seen.path.contains(where_) {
                true => reply(status, &[("retry-after", "0"), ("www-authenticate", "Basic realm=\"r\"")], ""),
                false => reply(404, &[], ""),
            })
            .await;
            let error = ask(&fake).await.unwrap_err();
            assert!(!error.is_not_found(), "{status} {where_}");
        }
    }
}

#[tokio::test]
async fn something_else_than_an_index_is_not_none() {
    let odd = [
        (INDEX, "{}"),
        (INDEX, "[]"),
        (INDEX, "{\"manifests\": {}}"),
        (INDEX, "{\"manifests\": [], \"manifests\": []}"),
    ];
    for (kind, body) in odd {
        let fake = serving(move |_| reply(200, &[("content-type", kind)], body)).await;
        assert_eq!(cause(&fake).await, Cause::Protocol(Violation::Referrers), "{body}");
    }
    let fake = serving(|_| reply(200, &[("content-type", "text/html")], "<html>")).await;
    assert_eq!(cause(&fake).await, Cause::NotARegistry);
}

#[tokio::test]
async fn junk_does_not_hide_what_stands_beside_it() {
    let mut long = entry(2);
    long["annotations"] = json!({"x": "y".repeat(REFERRER_ANNOTATION_BYTES)});
    let junk = [json!(null), json!({"digest": "md5:0"}), long, entry(3)];
    let body = index(&junk);
    let fake = serving(move |_| reply(200, &[("content-type", INDEX)], body.clone())).await;
    let referrers = ask(&fake).await.unwrap();
    assert_eq!(sizes(&referrers), [2, 3]);
    assert!(referrers.found[0].annotations.is_empty());
}

#[tokio::test]
async fn page_over_the_cap_is_too_large() {
    let fake =
        serving(|_| reply(200, &[("content-type", INDEX)], vec![b' '; crivet::limits::MANIFEST_BYTES + 1]))
            .await;
    assert!(matches!(cause(&fake).await, Cause::TooLarge { limit: "MANIFEST_BYTES", .. }));
}
