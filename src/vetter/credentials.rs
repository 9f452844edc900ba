//! Credentials of pulls, held in memory for later vetting of the same repository and namespace: a create carries
//! none. Never logged, never on disk, wiped when dropped.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::limits;
use crate::registry::Credential;

/// Held credentials.
#[derive(Default)]
pub struct Credentials {
    held: Mutex<Held>,
}

/// By repository and namespace, with the number of the call that used it last.
#[derive(Default)]
struct Held {
    all: HashMap<(String, String), (Credential, u64)>,
    calls: u64,
}

impl Credentials {
    /// Holds a credential that a registry has accepted. At most [`limits::CREDENTIALS`]: the one that was not used for
    /// longest makes room.
    pub fn hold(&self, repository: &str, namespace: &str, credential: &Credential) {
        if *credential == Credential::Anonymous {
            return;
        }
        let mut held = self.lock();
        let key = (repository.to_owned(), namespace.to_owned());
        if held.all.len() >= limits::CREDENTIALS && !held.all.contains_key(&key) {
            let oldest = held.all.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| held.all.remove(&oldest));
        }
        held.calls += 1;
        let used = held.calls;
        held.all.insert(key, (credential.clone(), used));
    }

    /// The credential last accepted for a repository in a namespace.
    pub fn find(&self, repository: &str, namespace: &str) -> Option<Credential> {
        let key = (repository.to_owned(), namespace.to_owned());
        let mut held = self.lock();
        held.calls += 1;
        let calls = held.calls;
        let (credential, used) = held.all.get_mut(&key)?;
        *used = calls;
        Some(credential.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_for_its_repository_and_namespace_only() {
        let credentials = Credentials::default();
        let basic = Credential::basic("u", "p");
        credentials.hold("r/a", "prod", &basic);
        assert_eq!(credentials.find("r/a", "prod"), Some(basic));
        assert_eq!(credentials.find("r/b", "prod"), None);
        assert_eq!(credentials.find("r/a", "other"), None);
    }

    #[test]
    fn no_credential_does_not_replace_one() {
        let credentials = Credentials::default();
        let basic = Credential::basic("u", "p");
        credentials.hold("r/a", "prod", &basic);
        credentials.hold("r/a", "prod", &Credential::Anonymous);
        assert_eq!(credentials.find("r/a", "prod"), Some(basic));
    }

    #[test]
    fn the_one_not_used_for_longest_makes_room() {
        let credentials = Credentials::default();
        let basic = Credential::basic("u", "p");
        for number in 0..limits::CREDENTIALS {
            credentials.hold(&format!("r/{number}"), "prod", &basic);
        }
        assert!(credentials.find("r/0", "prod").is_some());
        credentials.hold("r/more", "prod", &basic);
        let held = |name: &str| credentials.find(name, "prod").is_some();
        assert_eq!((held("r/0"), held("r/1"), held("r/2"), held("r/more")), (true, false, true, true));
    }
}
