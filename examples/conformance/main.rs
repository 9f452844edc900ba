//! The command protocol of sigstore's conformance suite, on crivet's own verifier:
//!
//!     conformance verify-bundle --bundle FILE [--key FILE | --certificate-identity SAN --certificate-oidc-issuer URL]
//!         [--trusted-root FILE] ARTIFACT_OR_DIGEST
//!
//! It exits with 0 if the bundle holds, else with 1. `run.sh` beside this file runs it over the suite's cases.

#![allow(clippy::print_stderr, reason = "a program for the command line")]

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::{Args, Parser};
use crivet::image::Digest;
use crivet::trust::{Origin, Root, State, Trust};
use crivet::verify::{
    Artifact, Authority, Identity, KeyAuthority, KeylessAuthority, Matcher, PublicKey, Verified, Witness,
    Witnesses, verify_artifact,
};

/// The name of the one trusted root.
const ROOT: &str = "given";

#[derive(Parser)]
enum Command {
    /// Verifies an artifact by a bundle.
    VerifyBundle(VerifyBundle),
}

#[derive(Args)]
struct VerifyBundle {
    #[arg(long)]
    bundle: PathBuf,
    #[arg(long, conflicts_with_all = ["certificate_identity", "certificate_oidc_issuer"])]
    key: Option<PathBuf>,
    #[arg(long, required_unless_present = "key")]
    certificate_identity: Option<String>,
    #[arg(long, required_unless_present = "key")]
    certificate_oidc_issuer: Option<String>,
    /// The public-good root, which is built in, where there is none.
    #[arg(long)]
    trusted_root: Option<PathBuf>,
    /// A file, or `sha256:<hex>`.
    artifact: String,
}

fn main() -> ExitCode {
    let Command::VerifyBundle(arguments) = Command::parse();
    match arguments.verify() {
        Ok(verified) => {
            for check in verified.checks {
                eprintln!("{}: {} ({})", check.step, check.detail, check.step.clause());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl VerifyBundle {
    fn verify(self) -> Result<Verified, Box<dyn Error>> {
        let root = match &self.trusted_root {
            Some(path) => Root::parse(&fs::read(path)?)?,
            None => Root::embedded()?,
        };
        let state = State {
            source: "the command line".to_owned(),
            kind: "file",
            root: Some(Arc::new(root)),
            origin: Origin::Source,
            at: None,
            expires: None,
            error: None,
            failures: 0,
            kept: None,
        };
        let trust = Trust::new([(ROOT.to_owned(), state)]);
        let witnesses = Witnesses {
            logs: Witness { count: 1, root: Some(ROOT.to_owned()) },
            timestamps: Witness { count: 0, root: None },
        };
        let authority = match (self.key, self.certificate_identity, self.certificate_oidc_issuer) {
            (Some(key), ..) => Authority::Key(KeyAuthority {
                name: None,
                key: PublicKey::from_pem(&fs::read(key)?)?,
                witnesses,
            }),
            (None, Some(subject), Some(issuer)) => Authority::Keyless(KeylessAuthority {
                name: None,
                root: ROOT.to_owned(),
                identities: vec![Identity {
                    issuer: Matcher::Exact(issuer),
                    subject: Matcher::Exact(subject),
                    by_email: false,
                    claims: Vec::new(),
                }],
                sct: true,
                witnesses,
            }),
            _ => return Err("expected a key, or an identity and its issuer".into()),
        };
        let bytes;
        let artifact = match Digest::parse(&self.artifact) {
            Ok(digest) => Artifact::Digest(digest),
            Err(_) => {
                bytes = fs::read(&self.artifact)?;
                Artifact::Bytes(&bytes)
            }
        };
        Ok(verify_artifact(&fs::read(&self.bundle)?, &authority, artifact, &trust, SystemTime::now())?)
    }
}
