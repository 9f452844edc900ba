//! `crivet verify`: decides as the node would, and shows each check.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::time::Instant;

use super::policy::read_policies;
use crate::audit::Decision;
use crate::config::{self, ProxyConfiguration, Settings};
use crate::image::Platform;
use crate::policy::{Labels, Outcome};
use crate::telemetry::Trace;
use crate::vetter::case::{Context, InForce};
use crate::vetter::layouts::Layouts;
use crate::vetter::load::{client, keeper, logins, roots_at_fault};
use crate::vetter::node::Node;
use crate::vetter::vet::Vetter;
use crate::vetter::vetting::Vetting;
use crate::vetter::wire::{ImageUse, Kind};

/// Images were denied.
pub(super) const DENIED: u8 = 1;
/// Images are undecided, none is denied.
pub(super) const UNDECIDED: u8 = 2;
/// sysexits.h EX_CONFIG.
pub(super) const EX_CONFIG: u8 = 78;

/// The configuration of a command that is given policies and no configuration: nothing passes unmatched.
const WITHOUT_CONFIGURATION: &str = "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\n\
     listen: unix:///run/crivet/crivet.sock\nruntimeEndpoint: unix:///run/containerd/containerd.sock\n\
     mode: enforce\nunmatched: deny\n";

/// The command's arguments.
#[derive(Args)]
pub struct Arguments {
    /// Images, as a pod would name them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The daemon's configuration; not read if --policy is given and this is not
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A policy file or folder, instead of the configuration's policyDir
    #[arg(long, value_name = "PATH")]
    policy: Option<PathBuf>,
    /// Decide as for a pod in this namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "")]
    namespace: String,
    /// Decide as for a pod with this label; may be given several times
    #[arg(long = "pod-label", value_name = "KEY=VALUE", value_parser = label)]
    pod_labels: Vec<(String, String)>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// One JSON object
    Json,
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Runs the command.
pub fn verify(arguments: &Arguments) -> ExitCode {
    crate::logging::to_stderr();
    let in_force = match in_force(arguments.config.as_deref(), arguments.policy.as_deref()) {
        Ok(in_force) => in_force,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(UNDECIDED);
        }
    };
    let vettings = runtime.block_on(vet(&in_force, arguments));
    // Whoever reads may have gone, as `head` does.
    let _ = match arguments.output {
        Output::Text => print_text(&vettings),
        Output::Json => print_json(&vettings, in_force.registry.requests()),
    };
    let some = |decision| vettings.iter().any(|(_, vetting)| vetting.decision == decision);
    match (some(Decision::Denied), some(Decision::Undecided)) {
        (true, _) => ExitCode::from(DENIED),
        (false, true) => ExitCode::from(UNDECIDED),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// What a command decides by, when it decides by itself.
///
/// # Errors
/// Configuration or policies are bad.
pub(super) fn in_force(config: Option<&Path>, policy: Option<&Path>) -> Result<InForce, String> {
    let config = match (config, policy) {
        (None, Some(_)) => ProxyConfiguration::parse("(none)", WITHOUT_CONFIGURATION.as_bytes())
            .map_err(|error| error.to_string())?,
        (path, _) => {
            let loaded = config::load(path.unwrap_or(Path::new(super::CONFIG)));
            let loaded = loaded.map_err(|error| error.to_string())?;
            match (loaded.settings, loaded.error) {
                (Settings::Whole(whole), None) => *whole,
                (_, error) => return Err(error.unwrap_or_default()),
            }
        }
    };
    let policies = read_policies(policy.unwrap_or(&config.policy_dir));
    let policies = policies.map_err(|faults| faults.join("; "))?;
    let faults = roots_at_fault(&config.trust.roots, &policies);
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    let logins = logins(&config);
    let registry = client(&config, Arc::new(|_| {}), &logins)?;
    let trust = Arc::new(keeper(&config, Some(&policies), &registry).look(SystemTime::now()));
    let layouts = Arc::new(Layouts::read(&config.evidence.layouts));
    Ok(InForce { mode: config.mode, config, policies: Ok(policies), registry, trust, logins, layouts })
}

async fn vet(in_force: &InForce, arguments: &Arguments) -> Vec<(String, Vetting)> {
    let vetter = vetter();
    let labels: Labels = arguments.pod_labels.iter().cloned().collect();
    let mut vettings = Vec::new();
    for image in &arguments.images {
        let vetting = vet_one(&vetter, in_force, &arguments.namespace, &labels, image).await;
        vettings.push((image.clone(), vetting));
    }
    vettings
}

/// Who vets for a command, on this machine's platform.
pub(super) fn vetter() -> Vetter {
    let host = Platform::new(std::env::consts::OS, std::env::consts::ARCH, "");
    Vetter::new(Node::default(), host)
}

/// Decides about an image as for a pull of a pod in this namespace (empty: none), with these labels.
pub(super) async fn vet_one(
    vetter: &Vetter,
    in_force: &InForce,
    namespace: &str,
    labels: &Labels,
    image: &str,
) -> Vetting {
    let context = Context {
        kind: Kind::PullImage,
        namespace,
        labels,
        auth: None,
        beside: false,
        trace: &Trace::default(),
        answer_by: Instant::now() + in_force.config.vetting.timeout,
    };
    let image_use = ImageUse {
        named: image.to_owned(),
        reference: image.to_owned(),
        role: "image".to_owned(),
        ..Default::default()
    };
    vetter.image(in_force, context, &image_use).await
}

fn print_text(vettings: &[(String, Vetting)]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (image, vetting) in vettings {
        writeln!(out, "{image}: {}", vetting.decision.as_str())?;
        if let Some(digest) = vetting.digest {
            writeln!(out, "  digest    {digest}")?;
        }
        for tie in &vetting.ties {
            writeln!(out, "  image ID  {}", tie.id())?;
        }
        if vetting.policies.is_empty() && vetting.decision == Decision::Allowed {
            writeln!(out, "  no policy covers it, and unmatched is allow")?;
        }
        for policy in &vetting.policies {
            writeln!(out, "  policy {} ({}): {}", policy.name, policy.source, policy.decision.as_str())?;
            for check in &policy.checks {
                let sign = if check.outcome == Outcome::Passed { "ok  " } else { "FAIL" };
                writeln!(out, "    {sign} {}: {}", check.name, check.detail)?;
                for step in &check.steps {
                    match step.outcome {
                        Outcome::Passed => {
                            writeln!(
                                out,
                                "           ok   {}: {} ({})",
                                step.name, step.detail, step.clause
                            )?;
                        }
                        // Of several conditions each says what it came to.
                        Outcome::Failed if step.name == "condition" => {
                            writeln!(
                                out,
                                "           FAIL {}: {} ({})",
                                step.name, step.detail, step.clause
                            )?;
                        }
                        // In what, is told above.
                        Outcome::Failed => writeln!(out, "           FAIL {} ({})", step.name, step.clause)?,
                    }
                }
            }
        }
        if !vetting.text.is_empty() {
            writeln!(out, "  {}", vetting.text)?;
        }
    }
    out.flush()
}

fn print_json(vettings: &[(String, Vetting)], requests: u64) -> io::Result<()> {
    let images: Vec<_> = vettings
        .iter()
        .map(|(image, vetting)| {
            let policies: Vec<_> = vetting
                .policies
                .iter()
                .map(|policy| {
                    json!({
                        "name": policy.name,
                        "source": policy.source,
                        "decision": policy.decision.as_str(),
                        "checks": policy.checks,
                    })
                })
                .collect();
            json!({
                "image": image,
                "reference": vetting.reference,
                "decision": vetting.decision.as_str(),
                "digest": vetting.digest,
                "imageIds": vetting.ties.iter().map(|tie| tie.id().to_string()).collect::<Vec<_>>(),
                "policies": policies,
                "message": vetting.text,
            })
        })
        .collect();
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &json!({ "images": images, "registryRequests": requests }))?;
    writeln!(out)
}
