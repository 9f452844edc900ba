//! `crivet policy explain`: which policies cover an image, which decide, and what would satisfy them.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Where;
use crate::cli::verify::{Output, label};
use crate::config::{Mode, ProxyConfiguration, Unmatched};
use crate::image::ImageName;
use crate::policy::{Explanation, Says, Subject};

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// The image, as a pod would name it
    image: String,
    /// Explain for a pod in this namespace
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Explain for a pod with this label; may be given several times
    #[arg(long = "pod-label", value_name = "KEY=VALUE", value_parser = label)]
    pod_labels: Vec<(String, String)>,
    #[command(flatten)]
    place: Where,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What is printed as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    image: &'a str,
    #[serde(flatten)]
    explanation: &'a Explanation,
    /// The daemon's, where its configuration was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<Daemon>,
    /// What comes of it, one line.
    outcome: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Daemon {
    mode: &'static str,
    unmatched: &'static str,
}

/// Runs the command.
pub fn explain(arguments: &Arguments) -> ExitCode {
    match say(arguments) {
        Ok(text) => {
            // Whoever reads may have gone, as `head` does.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(faults) => {
            for fault in faults {
                tracing::error!("{fault}");
            }
            ExitCode::FAILURE
        }
    }
}

fn say(arguments: &Arguments) -> Result<String, Vec<String>> {
    let name = ImageName::parse(&arguments.image).map_err(|error| vec![error.to_string()])?;
    let (config, set) = super::given(arguments.place.config.as_deref(), arguments.place.policy.as_deref())?;
    let namespace = arguments.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let labels = arguments.pod_labels.iter().cloned().collect();
    let unmatched_runs = config.as_ref().is_some_and(|config| config.unmatched == Unmatched::Allow);
    let explanation =
        set.explain(&Subject { name: &name, namespace, labels: &labels, is_pause: false }, unmatched_runs);
    let outcome = outcome(explanation.says, &arguments.image, config.as_ref());
    match arguments.output {
        Output::Text => Ok(format!("{explanation}\noutcome: {outcome}\n")),
        Output::Json => {
            let daemon = config.as_ref().map(|config| Daemon {
                mode: if config.mode == Mode::Audit { "audit" } else { "enforce" },
                unmatched: if config.unmatched == Unmatched::Allow { "allow" } else { "deny" },
            });
            let printed = Printed { image: &arguments.image, explanation: &explanation, daemon, outcome };
            let json = serde_json::to_string_pretty(&printed).map_err(|error| vec![error.to_string()])?;
            Ok(json + "\n")
        }
    }
}

/// What comes of it, in one line.
fn outcome(says: Says, image: &str, config: Option<&ProxyConfiguration>) -> String {
    let said = match (says, config.map(|config| config.unmatched)) {
        (Says::Asks, _) => {
            format!(
                "what decides asks for evidence: all of it has to hold; crivet verify {image} looks whether it does"
            )
        }
        (Says::Accepts, _) => "accepted: nothing is asked".to_owned(),
        (Says::Denies, _) => "denied, whatever is signed: use another image, or change the policy".to_owned(),
        (Says::Nothing, Some(Unmatched::Allow)) => {
            "no policy covers it: it runs, because unmatched is allow".to_owned()
        }
        (Says::Nothing, Some(Unmatched::Deny)) => {
            "no policy covers it: it is denied, because unmatched is deny; write an ImagePolicy for it"
                .to_owned()
        }
        (Says::Nothing, None) => {
            "no policy covers it: unmatched of the daemon's configuration decides; name it with --config"
                .to_owned()
        }
    };
    match config.map(|config| config.mode) {
        Some(Mode::Audit) => format!("{said}; the daemon's mode is audit: nothing is refused"),
        _ => said,
    }
}
