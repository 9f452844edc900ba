//! An explanation for people.

use std::fmt::{self, Display, Formatter};

use super::{Ask, Covering, Explanation, Leaf, Says};
use crate::policy::Mode;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let reference = self.reference.as_deref();
        writeln!(
            f,
            "looked up as  {}",
            reference.unwrap_or("(an image by ID has no name; only ** covers it)")
        )?;
        let namespace = self.namespace.as_deref();
        writeln!(
            f,
            "namespace     {}",
            namespace.unwrap_or("(none: policies for certain namespaces do not count)")
        )?;
        self.policies.iter().try_for_each(|policy| write!(f, "\n{policy}"))
    }
}

impl Display for Covering {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let decides = if self.decides { "decides" } else { "does not decide" };
        writeln!(f, "{} {} ({}) {decides}", self.kind, self.name, self.source)?;
        writeln!(f, "  covers   {}", self.scope)?;
        if let Some(namespaces) = &self.namespaces {
            writeln!(f, "  for      namespace {}", namespaces.join(", "))?;
        }
        if !self.pod_labels.is_empty() {
            writeln!(f, "  for      pods with {}", self.pod_labels.join(", "))?;
        }
        writeln!(f, "  why      {}", self.why)?;
        if !self.decides {
            return Ok(());
        }
        let mode = match self.mode {
            None => "the daemon's",
            Some(Mode::Audit) => "audit: what it would refuse is recorded and runs",
            Some(Mode::Enforce) => "enforce, unless the daemon's is audit",
        };
        writeln!(f, "  mode     {mode}")?;
        let reason = self.reason.as_deref().unwrap_or_default();
        match (self.says, &self.asks) {
            (Says::Accepts, _) => writeln!(f, "  asks     nothing: {reason}")?,
            (Says::Denies, _) => writeln!(f, "  denies   {reason}; use another image, or change the policy")?,
            (_, Some(asks)) => {
                writeln!(f, "  asks")?;
                tree(f, asks, 4)?;
            }
            (_, None) => {}
        }
        for exemption in &self.exemptions {
            writeln!(f, "  unless   exempted until {exemption}")?;
        }
        for place in &self.evidence {
            writeln!(f, "  looks in {place}")?;
        }
        if let Some(recheck) = &self.recheck {
            writeln!(f, "  recheck  {recheck}")?;
        }
        if let Some(content) = &self.content {
            writeln!(f, "  content  {content}")?;
        }
        Ok(())
    }
}

fn tree(f: &mut Formatter<'_>, ask: &Ask, indent: usize) -> fmt::Result {
    let (said, asks) = match ask {
        Ask::One(one) => return leaf(f, one, indent),
        Ask::All(asks) => ("each of".to_owned(), asks),
        Ask::Any(asks) => ("one of".to_owned(), asks),
        Ask::AtLeast { count, of } => (format!("at least {count} of, by different signers"), of),
    };
    writeln!(f, "{:indent$}{said}", "")?;
    asks.iter().try_for_each(|ask| tree(f, ask, indent + 2))
}

fn leaf(f: &mut Formatter<'_>, leaf: &Leaf, indent: usize) -> fmt::Result {
    writeln!(f, "{:indent$}{}", "", leaf.what)?;
    let indent = indent + 2;
    for (n, by) in leaf.by.iter().enumerate() {
        let word = if n == 0 { "by" } else { "or by" };
        match &by.name {
            Some(name) => writeln!(f, "{:indent$}{word} {name}: {}", "", by.signer)?,
            None => writeln!(f, "{:indent$}{word} {}", "", by.signer)?,
        }
        for besides in &by.besides {
            writeln!(f, "{:indent$}  {besides}", "")?;
        }
    }
    if let Some(naming) = &leaf.naming {
        writeln!(f, "{:indent$}that names {naming}", "")?;
    }
    if let Some(age) = &leaf.max_age {
        writeln!(f, "{:indent$}not older than {age}", "")?;
    }
    for condition in &leaf.conditions {
        writeln!(f, "{:indent$}of which is true: {condition}", "")?;
    }
    leaf.satisfied_by.iter().try_for_each(|command| writeln!(f, "{:indent$}made by: {command}", ""))
}
