//! The mode in force: what the configuration asks for, what stands against it, and what comes of the two. Pure.

use super::Stance;

/// What the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `mode: audit`
    Audit,
    /// `mode: enforce`
    Enforce,
    /// The configuration is bad and does not say beyond doubt; why, for whoever calls.
    Unknown(String),
}

/// How far a switch from audit to enforce is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// There is none, or it is through.
    #[default]
    Done,
    /// Nobody knows yet what it would break.
    Checking,
    /// It would break something, or that cannot be known; what, and what to do.
    Refused(String),
}

/// Why the mode in force is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The configuration says so.
    Configuration,
    /// A break-glass file.
    BreakGlass,
    /// A switch to enforce is being checked.
    SwitchChecking,
    /// A switch to enforce was refused.
    SwitchRefused,
    /// The configuration is bad.
    BadConfiguration,
}

/// The mode in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What is done about vetted calls.
    pub stance: Stance,
    /// What the configuration asks for: `audit`, `enforce` or `unknown`.
    pub configured: &'static str,
    /// Why it is so.
    pub because: Because,
    /// The same, in one line; empty if the configuration says so.
    pub text: String,
}

impl Because {
    /// As the metric's label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::BreakGlass => "break_glass",
            Self::SwitchChecking => "switch_checking",
            Self::SwitchRefused => "switch_refused",
            Self::BadConfiguration => "bad_configuration",
        }
    }
}

impl Asked {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// What is in force. `break_glass`: the words of the break-glass file that is valid now.
pub fn in_force(asked: &Asked, switch: &Switch, break_glass: Option<&str>) -> InForce {
    let (stance, because, text) = match (asked, break_glass, switch) {
        (Asked::Audit, _, _) => (Stance::Audit, Because::Configuration, String::new()),
        // Whatever is broken: break-glass is for the hour in which nothing else helps.
        (_, Some(glass), _) => (Stance::Audit, Because::BreakGlass, glass.to_owned()),
        (Asked::Unknown(why), None, _) => {
            (Stance::Unknown(why.clone()), Because::BadConfiguration, why.clone())
        }
        (Asked::Enforce, None, Switch::Done) => (Stance::Enforce, Because::Configuration, String::new()),
        (Asked::Enforce, None, Switch::Checking) => {
            (Stance::Audit, Because::SwitchChecking, "the switch to enforce is being checked".to_owned())
        }
        (Asked::Enforce, None, Switch::Refused(why)) => (Stance::Audit, Because::SwitchRefused, why.clone()),
    };
    InForce { stance, configured: asked.as_str(), because, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force() {
        let unknown = Asked::Unknown("bad".to_owned());
        let refused = Switch::Refused("etcd".to_owned());
        let glass = Some("fire");
        let unclear = Stance::Unknown("bad".to_owned());
        for (asked, switch, glass, stance, because, text) in [
            (&Asked::Audit, &Switch::Done, None, Stance::Audit, Because::Configuration, ""),
            (&Asked::Audit, &refused, glass, Stance::Audit, Because::Configuration, ""),
            (&Asked::Enforce, &Switch::Done, None, Stance::Enforce, Because::Configuration, ""),
            (&Asked::Enforce, &Switch::Done, glass, Stance::Audit, Because::BreakGlass, "fire"),
            (&Asked::Enforce, &refused, None, Stance::Audit, Because::SwitchRefused, "etcd"),
            (&Asked::Enforce, &refused, glass, Stance::Audit, Because::BreakGlass, "fire"),
            (
                &Asked::Enforce,
                &Switch::Checking,
                None,
                Stance::Audit,
                Because::SwitchChecking,
                "the switch to enforce is being checked",
            ),
            // A bad configuration never becomes audit by itself, only by break-glass.
            (&unknown, &Switch::Done, None, unclear.clone(), Because::BadConfiguration, "bad"),
            (&unknown, &refused, None, unclear, Because::BadConfiguration, "bad"),
            (&unknown, &Switch::Done, glass, Stance::Audit, Because::BreakGlass, "fire"),
        ] {
            let found = in_force(asked, switch, glass);
            let expected = InForce { stance, configured: asked.as_str(), because, text: text.to_owned() };
            assert_eq!(found, expected, "{asked:?} {switch:?} {glass:?}");
        }
    }
}
