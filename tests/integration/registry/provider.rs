//! Credential providers that misbehave, run as the vetter runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crivet::registry::Credential;
use crivet::registry::credentials::exec::{RunError, Runner};
use crivet::registry::credentials::{Answer, Provider, read_providers};
use tempfile::TempDir;

use crate::support::daemon::CRIVET;
use crate::support::until;

const ANSWER: &str = r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":{"r.example":{"username":"u","password":"p"}}}'"#;

struct Place {
    dir: TempDir,
    provider: Provider,
}

impl Place {
    /// A folder with a provider of this shell script.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("it");
        fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: it\n  \
                      matchImages: [r.example]\n  defaultCacheDuration: 0s\n  \
                      apiVersion: credentialprovider.kubelet.k8s.io/v1\n";
        let provider = read_providers(config.as_bytes()).unwrap().remove(0);
        Self { dir, provider }
    }

    fn runner(&self) -> Runner {
        let timeout = Duration::from_secs(30);
        Runner { crivet: CRIVET.into(), timeout, ..Runner::new(self.dir.path().to_owned(), None) }
    }

    async fn run(&self) -> Result<Answer, RunError> {
        self.runner().run(&self.provider, "r.example/app").await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The processes whose IDs the script wrote there; waits until it has.
    async fn processes(&self) -> Vec<String> {
        until("the script's processes", 20, || {
            fs::read_to_string(self.file("pids")).is_ok_and(|t| t.lines().count() == 2)
        })
        .await;
        fs::read_to_string(self.file("pids")).unwrap().lines().map(str::to_owned).collect()
    }
}

fn lives(process: &str) -> bool {
    // A zombie waits for whoever reaps it.
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

const HANGS: &str = "sleep 1000 & echo $$ >> pids; echo $! >> pids; wait";

#[tokio::test]
async fn a_program_that_answers_is_read() {
    for script in [ANSWER.to_owned(), format!("cat > asked\n{ANSWER}")] {
        let place = Place::new(&script);
        let answer = place.run().await.unwrap();
        assert_eq!(answer.auth, [("r.example".to_owned(), Credential::basic("u", "p"))]);
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_what_it_started() {
    let place = Place::new(HANGS);
    let runner = Runner { timeout: Duration::from_secs(2), ..place.runner() };
    let error = runner.run(&place.provider, "r.example/app").await.unwrap_err();
    assert!(error.to_string().contains("took longer than 2 s"), "{error}");
    for process in place.processes().await {
        until("its end", 10, || !lives(&process)).await;
    }
}

#[tokio::test]
async fn a_program_nobody_waits_for_any_more_is_killed_with_what_it_started() {
    let place = Place::new(HANGS);
    let (runner, provider) = (place.runner(), place.provider.clone());
    let task = tokio::spawn(async move { runner.run(&provider, "r.example/app").await.is_ok() });
    let processes = place.processes().await;
    task.abort();
    for process in processes {
        until("its end", 10, || !lives(&process)).await;
    }
}

#[tokio::test]
async fn a_program_that_says_too_much_is_killed() {
    let place = Place::new("exec yes");
    let error = place.run().await.unwrap_err().to_string();
    assert!(error.contains("CREDENTIAL_PROVIDER_BYTES"), "{error}");
}

#[tokio::test]
async fn a_program_that_fails_after_an_answer_has_given_none() {
    let error = Place::new(&format!("{ANSWER}\nexit 3")).run().await.unwrap_err().to_string();
    assert!(error.contains("it ended with exit status: 3"), "{error}");
    let error = Place::new(&format!("{ANSWER}\nkill -9 $$")).run().await.unwrap_err().to_string();
    assert!(error.contains("signal: 9"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_run_is_told() {
    let place = Place::new("");
    fs::set_permissions(place.file("it"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.run().await.unwrap_err().to_string();
    assert!(error.contains("cannot be run by the vetter's user"), "{error}");
}

#[tokio::test]
async fn it_can_gain_no_privilege_and_sees_nothing_of_the_environment() {
    let place = Place::new(&format!("env > env; grep NoNewPrivs /proc/self/status > privileges\n{ANSWER}"));
    place.run().await.unwrap();
    let read = |name: &str| fs::read_to_string(place.file(name)).unwrap();
    assert_eq!(read("privileges").trim(), "NoNewPrivs:\t1");
    let variables: Vec<_> =
        read("env").lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    let known = ["PATH", "PWD", "OLDPWD", "SHLVL", "_", "SSL_CERT_FILE", "SSL_CERT_DIR"];
    let other =
        |name: &&String| !known.contains(&name.as_str()) && !name.to_ascii_lowercase().ends_with("_proxy");
    assert_eq!(variables.iter().find(other), None);
}
