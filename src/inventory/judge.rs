//! Who judges: the running daemon, or this command by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::uses::Question;
use crate::control::{Control, ControlError};
use crate::cri::reply::Reply;
use crate::cri::runtime::RuntimeClient;
use crate::image::{Platform, quoted};
use crate::limits;
use crate::telemetry::Trace;
use crate::vetter::answer;
use crate::vetter::case::{Context, InForce};
use crate::vetter::node::Node;
use crate::vetter::vet::Vetter;
use crate::vetter::wire::{Judged, Kind, Outcome};

/// Longest one image may take; its requests wait for their turn within the background's budget.
const EACH: Duration = Duration::from_secs(limits::BACKGROUND_SECONDS + 60);

/// Who judges.
pub enum Judge {
    /// The running daemon, by its control socket.
    Daemon {
        /// The socket.
        socket: PathBuf,
        /// The connection; it is made again after a loss.
        control: Option<Box<Control>>,
        /// Whether the daemon keeps what it learns.
        warm: bool,
    },
    /// This process.
    Itself {
        /// Knows what it has learned from image to image.
        vetter: Box<Vetter>,
        /// As if everything were enforced.
        in_force: Arc<InForce>,
    },
}

impl Judge {
    /// This process, with the runtime's own content.
    pub fn itself(in_force: &InForce, runtime: RuntimeClient) -> Judge {
        let host = Platform::new(std::env::consts::OS, std::env::consts::ARCH, "");
        let vetter = Box::new(Vetter::new(Node::of_runtime(runtime), host));
        Judge::Itself { vetter, in_force: Arc::new(in_force.enforcing()) }
    }

    /// Where the judgements come from, in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Judge::Daemon { .. } => "daemon",
            Judge::Itself { .. } => "command",
        }
    }

    /// What the policies say. Whatever goes wrong is undecided, and says why.
    pub async fn judge(&mut self, question: &Question) -> Judged {
        let call = match self {
            Judge::Daemon { warm, .. } => question.call(!*warm),
            Judge::Itself { .. } => question.call(true),
        };
        let judged = match self {
            Judge::Daemon { socket, control, .. } => {
                let asked = async {
                    let connection = match control.take() {
                        Some(connection) => connection,
                        None => Box::new(Control::connect(socket).await?),
                    };
                    let verdict = control.insert(connection).judge(call, EACH).await;
                    // What it said is an answer; any other error may have left half of one on the connection.
                    if verdict.as_ref().is_err_and(|error| !matches!(error, ControlError::Refused(_))) {
                        *control = None;
                    }
                    verdict
                };
                asked.await.map_err(|error| error.to_string()).map(|verdict| verdict.judged)
            }
            Judge::Itself { vetter, in_force } => {
                let context = Context {
                    kind: Kind::Inventory,
                    namespace: &call.namespace,
                    labels: &call.labels,
                    auth: None,
                    beside: true,
                    trace: &Trace::default(),
                    answer_by: Instant::now() + EACH,
                };
                let mut vettings = Vec::new();
                for image in &call.images {
                    vettings.push(vetter.image(in_force, context, image).await);
                }
                Ok(answer::judged(&vettings).judged.into_iter().map(not_asked).collect())
            }
        };
        match judged.map(|judged| judged.into_iter().next()) {
            Ok(Some(judged)) => judged,
            Ok(None) => undecided("nothing was judged".to_owned()),
            Err(why) => undecided(why),
        }
    }
}

/// What only the daemon knows decides, too, where a policy asks for a check of the layers.
fn not_asked(judged: Judged) -> Judged {
    if judged.vetted.as_ref().is_none_or(|vetted| vetted.layers_checked_within == 0) {
        return judged;
    }
    let Judged { policies, reference, digest, .. } = judged;
    let text = format!(
        "image {}: expected a check of its layers (content.layersCheckedWithin), found nobody who knows of one: systemctl start crivet",
        quoted(&reference)
    );
    Judged { policies, reference, digest, ..undecided(Reply::undecided(&text).message) }
}

/// An image about which nothing could be found out.
pub fn undecided(message: String) -> Judged {
    Judged { outcome: Outcome::Undecided.into(), message, refuses: true, ..Default::default() }
}
