//! Credentials of pulls, held in memory for later vetting of the same repository and namespace: a create carries
//! none. Never logged, never on disk, wiped when dropped.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::limits;
use crate::registry::Credential;

/// Held credentials.
#[derive(Default)]
pub struct Credentials {
    held: Mutex<HashMap<(String, String), Credential>>,
}

impl Credentials {
    /// Holds a credential that a registry has accepted. At most [`limits::CREDENTIALS`]; more are not held.
    pub fn hold(&self, repository: &str, namespace: &str, credential: &Credential) {
        if *credential == Credential::Anonymous {
            return;
        }
        let mut held = self.lock();
        let key = (repository.to_owned(), namespace.to_owned());
        if held.len() < limits::CREDENTIALS || held.contains_key(&key) {
            held.insert(key, credential.clone());
        }
    }

    /// The credential last accepted for a repository in a namespace, else none to show.
    pub fn find(&self, repository: &str, namespace: &str) -> Credential {
        let key = (repository.to_owned(), namespace.to_owned());
        self.lock().get(&key).cloned().unwrap_or(Credential::Anonymous)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Credential>> {
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
        assert_eq!(credentials.find("r/a", "prod"), basic);
        assert_eq!(credentials.find("r/b", "prod"), Credential::Anonymous);
        assert_eq!(credentials.find("r/a", "other"), Credential::Anonymous);
    }

    #[test]
    fn no_credential_does_not_replace_one() {
        let credentials = Credentials::default();
        let basic = Credential::basic("u", "p");
        credentials.hold("r/a", "prod", &basic);
        credentials.hold("r/a", "prod", &Credential::Anonymous);
        assert_eq!(credentials.find("r/a", "prod"), basic);
    }
}
