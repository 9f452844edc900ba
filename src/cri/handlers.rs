//! CRI-O's runtime handlers, as its configuration has them: which of them run what CRI-O unpacked.
//!
//! To a runtime of type `oci` CRI-O hands a folder with the image's layers. One of type `vm` is a shim (Kata), and its guest may pull the
//! image by itself: because CRI-O tells it to (`runtime_pull_image`), or because its own configuration does
//! (`experimental_force_guest_pull`), which nobody can be asked for.
//!
//! Told to read its configuration anew (SIGHUP), CRI-O says the new handlers, and goes on by those that it was started with (seen: 1.34;
//! the code of 1.37 is the same). So whatever the same process has said counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::image::quoted;

/// They run the folder that they are given: runc and what takes its place, under conmon or conmon-rs. None is `oci`.
const TYPES: &[&str] = &["", "oci", "pod"];

/// Most handlers that a message names.
const NAMED: usize = 8;

/// The handlers in CRI-O's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handlers {
    /// The default's name; several where it has changed.
    defaults: BTreeSet<String>,
    all: BTreeMap<String, Written>,
}

#[derive(Deserialize)]
struct Configuration {
    crio: Crio,
}

#[derive(Deserialize)]
struct Crio {
    runtime: Runtime,
}

#[derive(Deserialize)]
struct Runtime {
    default_runtime: String,
    runtimes: BTreeMap<String, Written>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Written {
    #[serde(default)]
    runtime_type: String,
    #[serde(default)]
    runtime_pull_image: bool,
    /// It is in an earlier configuration.
    #[serde(skip)]
    earlier: bool,
}

impl Written {
    fn is_bound(&self) -> bool {
        TYPES.contains(&self.runtime_type.as_str()) && !self.runtime_pull_image
    }
}

impl Handlers {
    /// Of CRI-O's configuration, in TOML.
    ///
    /// # Errors
    /// It is none; one line.
    pub fn parse(text: &str) -> Result<Handlers, String> {
        // The reader's own message has several lines, and quotes the text.
        let read: Configuration = toml::from_str(text).map_err(|error| {
            format!(
                "expected a table crio.runtime with default_runtime and runtimes: {}",
                quoted(error.message())
            )
        })?;
        let Runtime { default_runtime, runtimes } = read.crio.runtime;
        Ok(Handlers { defaults: BTreeSet::from([default_runtime]), all: runtimes })
    }

    /// These, and of what the same CRI-O has said earlier all that is in the way of something.
    pub fn after(mut self, earlier: &Handlers) -> Handlers {
        self.defaults.extend(earlier.defaults.iter().cloned());
        for (name, handler) in earlier.all.iter().filter(|(_, handler)| !handler.is_bound()) {
            if self.all.get(name).is_none_or(Written::is_bound) {
                self.all.insert(name.clone(), Written { earlier: true, ..handler.clone() });
            }
        }
        self
    }

    /// Whether each is bound, or allowed by its name: then it does not matter by which something is made.
    pub fn are_all_bound(&self, allowed: &[String]) -> bool {
        self.all.iter().all(|(name, handler)| handler.is_bound() || allowed.contains(name))
    }

    /// Whether there is one of this name; the default goes by the empty name, too.
    pub fn has(&self, name: &str) -> bool {
        self.full(name).all(|name| self.all.contains_key(name))
    }

    /// Whether what is made by this handler runs what CRI-O unpacked, or the configuration lets it run all the same. An empty name is the
    /// default's.
    ///
    /// # Errors
    /// It need not; one line.
    pub fn is_bound(&self, name: &str, allowed: &[String]) -> Result<(), String> {
        self.full(name).try_for_each(|name| self.one_is_bound(name, allowed))
    }

    fn one_is_bound(&self, name: &str, allowed: &[String]) -> Result<(), String> {
        if allowed.iter().any(|allowed| allowed == name) {
            return Ok(());
        }
        let Some(handler) = self.all.get(name) else {
            let known: Vec<_> = self.all.keys().take(NAMED).map(|name| quoted(name)).collect();
            return Err(format!(
                "CRI-O's configuration has no runtime handler {}; expected one of {}; see crio.runtime.runtimes there, and the pod's runtime class",
                quoted(name),
                known.join(", ")
            ));
        };
        if handler.is_bound() {
            return Ok(());
        }
        let why = match handler.runtime_pull_image {
            true => "has runtime_pull_image, so that its guest pulls the image by itself".to_owned(),
            false => {
                format!(
                    "is of type {}, whose guest may pull the image by itself",
                    quoted(&handler.runtime_type)
                )
            }
        };
        let earlier = match handler.earlier {
            true => " (in the configuration that CRI-O was started with and goes on by; restart it)",
            false => "",
        };
        Err(format!(
            "CRI-O's runtime handler {} {why}{earlier}, and what runs need not be what was vetted; use a handler of type \"oci\" for the pod, or name this one in insecureAllowRuntimes",
            quoted(name)
        ))
    }

    /// The names that a name stands for.
    fn full<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let (named, default) = match name.is_empty() {
            true => (None, Some(&self.defaults)),
            false => (Some(name), None),
        };
        named.into_iter().chain(default.into_iter().flatten().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As CRI-O 1.34 says it, shortened.
    const SAID: &str = r#"
[crio]
  root = "/var/lib/containers/storage"
  [crio.api]
    listen = "/run/crio/crio.sock"
  [crio.runtime]
    selinux = false
    default_runtime = "runc"
    [crio.runtime.runtimes]
      [crio.runtime.runtimes.conmonrs]
        runtime_type = "pod"
      [crio.runtime.runtimes.runc]
        runtime_config_path = ""
        runtime_path = "/usr/bin/runc"
        runtime_type = "oci"
        monitor_env = ["PATH=/usr/bin"]
        no_sync_log = false
      [crio.runtime.runtimes.plain]
        runtime_path = "/usr/bin/crun"
        runtime_type = ""
"#;

    const KATA: &str = "\n[crio.runtime.runtimes.kata]\nruntime_type = \"vm\"\n";

    fn handlers(more: &str) -> Handlers {
        Handlers::parse(&format!("{SAID}{more}")).unwrap()
    }

    #[test]
    fn what_runs_the_folder_it_is_given_is_bound() {
        let handlers = handlers("");
        assert!(handlers.are_all_bound(&[]));
        for name in ["", "runc", "plain", "conmonrs"] {
            assert_eq!(handlers.is_bound(name, &[]), Ok(()), "{name}");
            assert!(handlers.has(name));
        }
    }

    #[test]
    fn guest_that_is_told_to_pull() {
        let handlers = handlers(&format!("{KATA}runtime_pull_image = true\n"));
        assert!(!handlers.are_all_bound(&[]));
        let text = handlers.is_bound("kata", &[]).unwrap_err();
        assert!(
            text.contains("\"kata\" has runtime_pull_image") && text.contains("insecureAllowRuntimes"),
            "{text}"
        );
        assert_eq!(handlers.is_bound("runc", &[]), Ok(()));
    }

    #[test]
    fn guest_that_may_pull_by_its_own_configuration() {
        let handlers = handlers(&format!("{KATA}runtime_pull_image = false\n"));
        let text = handlers.is_bound("kata", &[]).unwrap_err();
        assert!(text.contains("is of type \"vm\", whose guest may pull"), "{text}");
        assert!(!handlers.are_all_bound(&[]));
    }

    #[test]
    fn type_that_nobody_here_has_heard_of() {
        let handlers = handlers(&KATA.replace("vm", "wasm"));
        assert!(handlers.is_bound("kata", &[]).unwrap_err().contains("is of type \"wasm\""));
    }

    #[test]
    fn default_that_is_no_longer_bound() {
        let text = SAID.replace("default_runtime = \"runc\"", "default_runtime = \"kata\"");
        let handlers = Handlers::parse(&format!("{text}{KATA}")).unwrap();
        assert!(handlers.is_bound("", &[]).unwrap_err().contains("\"kata\" is of type"));
        // By its own name, not by none.
        assert!(handlers.is_bound("", &[String::new()]).is_err());
        assert_eq!(handlers.is_bound("", &["kata".to_owned()]), Ok(()));
    }

    #[test]
    fn one_that_is_allowed_is_not_another() {
        let handlers = handlers(KATA);
        assert_eq!(handlers.is_bound("kata", &["kata".to_owned()]), Ok(()));
        assert!(handlers.are_all_bound(&["kata".to_owned()]));
        for other in ["kat", "kata2", "io.containerd.kata.v2"] {
            assert!(handlers.is_bound("kata", &[other.to_owned()]).is_err(), "{other}");
            assert!(!handlers.are_all_bound(&[other.to_owned()]), "{other}");
        }
    }

    #[test]
    fn guest_that_pulled_by_an_earlier_configuration() {
        let before = handlers(&format!("{KATA}runtime_pull_image = true\n"));
        // It is like any other now, or gone.
        for now in [KATA.replace("vm", "oci").as_str(), ""] {
            let now = handlers(now).after(&before);
            let text = now.is_bound("kata", &[]).unwrap_err();
            assert!(text.contains("has runtime_pull_image") && text.contains("; restart it"), "{text}");
            assert!(now.has("kata") && !now.are_all_bound(&[]));
            assert_eq!(now.is_bound("runc", &[]), Ok(()));
            // And after a third.
            assert!(handlers("").after(&now).is_bound("kata", &[]).is_err());
        }
        let now = handlers(KATA).after(&handlers(&KATA.replace("vm", "oci")));
        let text = now.is_bound("kata", &[]).unwrap_err();
        assert!(text.contains("is of type") && !text.contains("restart"), "{text}");
    }

    #[test]
    fn default_of_an_earlier_configuration_that_was_not_bound() {
        let text = SAID.replace("default_runtime = \"runc\"", "default_runtime = \"kata\"");
        let before = Handlers::parse(&format!("{text}{KATA}")).unwrap();
        let now = handlers(KATA).after(&before);
        assert!(now.is_bound("", &[]).unwrap_err().contains("\"kata\" is of type"));
        assert_eq!(now.is_bound("runc", &[]), Ok(()));
        let known = handlers("").after(&handlers(""));
        assert_eq!(known.is_bound("", &[]), Ok(()));
    }

    #[test]
    fn handler_that_is_not_there() {
        let handlers = handlers("");
        let text = handlers.is_bound("gone", &[]).unwrap_err();
        assert!(
            text.contains("no runtime handler \"gone\"; expected one of \"conmonrs\", \"plain\", \"runc\""),
            "{text}"
        );
        assert!(!handlers.has("gone"));
    }

    #[test]
    fn default_that_is_not_there() {
        let text = SAID.replace("default_runtime = \"runc\"", "default_runtime = \"\"");
        assert!(Handlers::parse(&text).unwrap().is_bound("", &[]).is_err());
    }

    #[test]
    fn configuration_without_a_default_or_handlers_is_none() {
        let without = SAID.replace("    default_runtime = \"runc\"\n", "");
        for text in [without.as_str(), "", "[crio.runtime]\ndefault_runtime = \"runc\"\n", "<html>\n</html>"]
        {
            let error = Handlers::parse(text).unwrap_err();
            assert!(error.starts_with("expected a table crio.runtime") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn handler_whose_type_is_no_text_is_no_handler() {
        assert!(Handlers::parse(&format!("{SAID}{}", KATA.replace("\"vm\"", "1"))).is_err());
    }
}
