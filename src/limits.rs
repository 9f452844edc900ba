//! Every bound crivet holds outside data to, named, with its reason. An error that reports a limit names it.

/// Longest image reference taken apart, bytes. A registry host (255), a repository (255), a tag (128) and a
/// digest fit several times over; a reference of 1 MiB is an attack.
pub const REFERENCE_BYTES: usize = 4 * 1024;

/// Largest CRI message read, bytes. Kubelet and containerd agree on 16 MiB.
pub const RUNTIME_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Longest a call of crivet's own to the runtime may take, seconds. A pull of the pause image excepted.
pub const RUNTIME_CALL_SECONDS: u64 = 20;

/// Most characters of somebody else's words that are quoted in a message of crivet's.
pub const QUOTED_CHARS: usize = 300;

/// Largest frame between relay and vetter, bytes: a manifest or config of 4 MiB with room for its wrapping.
pub const LINK_FRAME_BYTES: usize = 6 * 1024 * 1024;

/// Largest vetted call that is read, bytes: what the runtimes receive, and the gRPC prefix.
pub const VETTED_CALL_BYTES: usize = RUNTIME_MESSAGE_BYTES + 5;

/// Bytes of vetted calls held at once, all calls together; four of the largest.
pub const VETTED_CALLS_BYTES: usize = 4 * VETTED_CALL_BYTES;

/// Longest a vetted call's bytes may take to arrive, seconds. A kubelet sends them at once.
pub const VETTED_CALL_SECONDS: u64 = 20;

/// Bytes of a call kept so that it can be sent again if the runtime never saw it.
pub const REPLAYED_CALL_BYTES: usize = 64 * 1024;

/// Largest answer to a vetted call that is read, bytes: an ID or an image reference.
pub const VETTED_ANSWER_BYTES: usize = 64 * 1024;

/// Client connections at once. A kubelet has two, and tools come one by one.
pub const CONNECTIONS: usize = 512;

/// Connections to the control socket at once. Commands come one by one.
pub const CONTROL_CONNECTIONS: usize = 16;

/// Largest frame on the control socket, bytes: a call's facts, or a verdict about 64 images.
pub const CONTROL_FRAME_BYTES: usize = 1024 * 1024;

/// Registries that crivet doctor asks whether they answer.
pub const DOCTOR_REGISTRIES: usize = 32;

/// Names that crivet doctor tries in search of one that the policies refuse.
pub const DOCTOR_SAMPLES: usize = 256;

/// Questions to the vetter at once, the calls of a node that restarts with 500 pods among them.
pub const QUESTIONS: usize = 4096;

/// Calls in audit mode that wait for their vetting beside; more are counted and not vetted.
pub const BESIDE_CALLS: usize = 1024;

/// Bytes of decisions that the relay made while no vetter lived, kept for the next one's audit log: some 1,500.
pub const UNTOLD_BYTES: usize = 1024 * 1024;

/// Permits the relay holds. A node runs some hundred pods.
pub const PERMITS: usize = 10_000;

/// Containers that came through and are kept in mind. A node runs some hundred; a hundred times that is a runtime gone mad.
pub const CONTAINERS_KNOWN: usize = 10_000;

/// Containers that did not come through crivet and are vetted and counted; more are not looked at.
pub const STRANGERS: usize = 2_000;

/// Those of them that the control socket tells of: with their messages they have to fit into one of its frames.
pub const FOUND_SHOWN: usize = 100;

/// Questions of the vetter to the runtime that are under way at once, each until its answer of at most [`LINK_FRAME_BYTES`] is
/// written to the vetter.
pub const RUNTIME_QUESTIONS: usize = 16;

/// Those that wait for their turn, or are under way: one of each call that is vetted. A name has [`REFERENCE_BYTES`] at most.
pub const RUNTIME_QUESTIONS_WAITING: usize = QUESTIONS;

/// Memory the vetter may use, bytes. It reads hostile input; the relay must not be what the kernel kills for it.
pub const VETTER_MEMORY_BYTES: u64 = 512 * 1024 * 1024;

/// Seconds without a sign of life after which the vetter is killed and started anew.
pub const VETTER_SILENCE_SECONDS: u64 = 15;
/// Longest answer of a token endpoint, bytes. Tokens of cloud registries reach a few KiB.
pub const REGISTRY_TOKEN_BYTES: usize = 64 * 1024;

/// Longest error body read from a registry, bytes. More than that is left unread: only the error code is used.
pub const REGISTRY_ERROR_BYTES: usize = 8 * 1024;

/// Longest status line and headers of a registry's answer together, bytes.
pub const REGISTRY_HEADER_BYTES: usize = 64 * 1024;

/// Most header lines in a registry's answer.
pub const REGISTRY_HEADERS: usize = 100;

/// Redirects followed for one request. Real chains are one or two long: registry to region to object store.
pub const REGISTRY_REDIRECTS: usize = 4;

/// Times a request that met 429 or 5xx is tried again. More would turn a registry's trouble into load.
pub const REGISTRY_RETRIES: u32 = 2;

/// Most tokens and remembered challenges kept in memory; the ones that expire first make room.
pub const REGISTRY_TOKENS: usize = 1024;

/// Longest time a token is used, seconds, whatever its `expires_in` says.
pub const REGISTRY_TOKEN_SECONDS: u64 = 3600;

/// Most registry hosts with a concurrency count of their own; idle ones make room.
pub const REGISTRY_HOSTS: usize = 1024;

/// Seconds for which a mirror that could not be reached is passed over: each request of a vetting would wait for it anew.
pub const MIRROR_REST_SECONDS: u64 = 30;

/// Most kinds of connections (CAs, client certificates, checking or not, time limit) kept at once; a node has one or two.
pub const REGISTRY_WIRES: usize = 64;

/// Largest hosts.toml or registries.conf read, bytes. The largest known have some hundred entries of 200 bytes.
pub const HOSTS_FILE_BYTES: usize = 512 * 1024;

/// Most folders of registries in one root of containerd's or in one `certs.d`.
pub const HOSTS_FOLDERS: usize = 1024;

/// Most hosts in one hosts.toml, or mirrors of one registry; each may be asked before a pull fails.
pub const HOSTS_MIRRORS: usize = 32;

/// Most files in one folder of certificates.
pub const HOSTS_CERTIFICATES: usize = 64;

/// Largest file of CA certificates, or of a client certificate or key, bytes. All public CAs together have 220 KB.
pub const HOSTS_CERTIFICATE_BYTES: usize = 1024 * 1024;

/// Most files in registries.conf.d.
pub const REGISTRIES_CONF_FILES: usize = 256;

/// Most entries of registries.conf and its drop-ins together.
pub const REGISTRIES_CONF_ENTRIES: usize = 4096;

/// Most pages of a list of referrers. A page is a manifest, of at most [`MANIFEST_BYTES`].
pub const REFERRER_PAGES: usize = 16;

/// Most referrers of one digest taken over from its list, whatever their types: CI that signs each night for years.
pub const REFERRERS: usize = 4096;

/// Most bytes of annotations kept of one referrer; they are hints, and nothing is decided by them.
pub const REFERRER_ANNOTATION_BYTES: usize = 4 * 1024;

/// Longest single field of a credential, bytes. Cloud registries' passwords are tokens of a few KiB.
pub const CREDENTIAL_FIELD_BYTES: usize = 32 * 1024;

/// Largest docker config or credential provider configuration read, bytes. Files with hundreds of registries have some
/// 100 KiB.
pub const CREDENTIAL_FILE_BYTES: usize = 256 * 1024;

/// Docker configs, and files of the credential provider configuration, that are read: all of them together fit into one
/// frame of [`LINK_FRAME_BYTES`].
pub const CREDENTIAL_FILES: usize = 8;

/// How long these files are used before they are read anew, seconds. Whoever renews a login by writing the file is not
/// noticed sooner. A kubelet reads them every five minutes.
pub const CREDENTIAL_FILES_SECONDS: u64 = 30;

/// Logins tried for one repository. The kubelet tries all that match; two or three do on real nodes.
pub const CREDENTIAL_CANDIDATES: usize = 8;

/// Longest time a credential provider may take, seconds: the kubelet's own limit.
pub const CREDENTIAL_PROVIDER_SECONDS: u64 = 60;

/// Longest answer of a credential provider, bytes. Tokens have a few KiB.
pub const CREDENTIAL_PROVIDER_BYTES: usize = 256 * 1024;

/// Credential providers that run at once: each is a process of its own on a node that is starting.
pub const CREDENTIAL_PROVIDERS_AT_ONCE: usize = 4;

/// Seconds before a credential provider that failed is run again for the same image.
pub const CREDENTIAL_PROVIDER_RETRY_SECONDS: u64 = 10;

/// Longest text field of an audit record, bytes; a longer one is cut and says so. Long enough for the longest
/// message a kubelet shows whole.
pub const AUDIT_FIELD_BYTES: usize = 1024;

/// Most policies named in one audit record; the count of the others is told.
pub const AUDIT_POLICIES: usize = 32;

/// Most different records remembered for merging equal ones. One that finds no room is written unmerged.
pub const AUDIT_KEYS: usize = 512;

/// Equal audit records are written at most once in this many seconds.
pub const AUDIT_MERGE_SECONDS: u64 = 60;

/// Most connections to the metrics address at a time; more wait in the kernel's queue.
pub const METRICS_CONNECTIONS: usize = 8;

/// Longest request line and headers on the metrics address, bytes (hyper's least is 8 KiB).
pub const METRICS_HEADER_BYTES: usize = 8 * 1024;

/// Longest time a connection to the metrics address may take for its headers, or stay open, seconds.
pub const METRICS_CONNECTION_SECONDS: u64 = 10;

/// Largest manifest or index read, bytes: what registries themselves accept (distribution, `MaxManifestBodySize`).
pub const MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// Largest image config read, bytes. Configs are kilobytes; history and labels may swell them.
pub const CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// Most values (of any kind) in one JSON document from outside. A manifest at every other limit has some ten
/// thousand; without this, 4 MiB of `[[],[],…` would become a hundred megabytes of tree.
pub const JSON_VALUES: usize = 200_000;

/// Largest configuration of CRI-O's read, bytes. One with three handlers has some six thousand.
pub const CRIO_CONFIG_BYTES: usize = 1024 * 1024;

/// How long what CRI-O's configuration says is believed, seconds: pods that start together share one reading, and CRI-O may be told
/// to read it anew at any time.
pub const CRIO_CONFIG_SECONDS: u64 = 5;

/// Largest list of containers/storage read, bytes. A layer takes some four hundred in it, a container some eight hundred.
pub const STORAGE_LIST_BYTES: usize = 16 * 1024 * 1024;

/// Most layers of an image. overlayfs stacks at most 500 (the kernel's `OVL_MAX_STACK`).
pub const LAYERS: usize = 512;

/// Most entries of an image index. The widest official images have some forty, attestations included.
pub const INDEX_MANIFESTS: usize = 512;

/// Most child manifests of one index fetched in search of an image ID. Those of the node's platform come first,
/// so that more than one or two is already unusual.
pub const WALK_CHILDREN: usize = 32;

/// Largest file of a kubelet's configuration that is read, bytes; also its command line.
pub const KUBELET_FILE_BYTES: usize = 1024 * 1024;

/// Bytes read of /etc/passwd.
pub const PASSWD_BYTES: usize = 4 * 1024 * 1024;
/// Largest daemon configuration read, bytes.
pub const CONFIGURATION_BYTES: usize = 256 * 1024;

/// Most bytes of policies in one set, all files together: ten thousand policies with their keys are some 8 MiB.
pub const POLICY_SET_BYTES: usize = 32 * 1024 * 1024;

/// Most files in a policy folder, those that are no policies included.
pub const POLICY_FILES: usize = 20_000;

/// Digests about which something is known. A node holds some hundred images.
pub const PROOFS: usize = 10_000;

/// Bytes of evidence held, all digests together. 10,000 digests with one signature each need 5 MiB.
pub const PROOF_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of evidence about one digest in one repository that are kept; what is over makes the set incomplete. Whoever can
/// push to one repository must not be able to push all other proofs out of [`PROOF_BYTES`].
pub const PROOF_SET_BYTES: usize = 4 * 1024 * 1024;

/// Changes that wait to be written to the proofs' store, by key; with more the store is written anew, whole.
pub const PROOFS_UNWRITTEN: usize = 4 * PROOFS;

/// Changes written to the proofs' store at once. A pull makes two or three.
pub const PROOFS_PER_WRITE: usize = 256;

/// Largest file taken for the proofs' store, bytes. What it holds is bounded by [`PROOFS`] and [`PROOF_BYTES`]; the store
/// needs up to four times that while all of it is written anew.
pub const PROOF_STORE_BYTES: u64 = 256 * 1024 * 1024;

/// Largest store of proofs read from a disk that takes no write, bytes: for that it is copied into memory. Twice this is
/// a third of [`VETTER_MEMORY_BYTES`].
pub const PROOF_STORE_COPY_BYTES: usize = 88 * 1024 * 1024;

/// Memory for pages of the proofs' store, bytes. Nothing is looked up in it: it is read once and then written.
pub const PROOF_STORE_CACHE_BYTES: usize = 1024 * 1024;

/// Damaged stores of proofs that are kept for whoever wants to look at them. The oldest goes first.
pub const PROOF_STORES_ASIDE: usize = 2;

/// Times in a row that the vetter may end while it reads the proofs' store, before that is set aside unread: it must not
/// be what keeps the vetter from ever starting.
pub const PROOF_STORE_TRIES: u32 = 3;

/// Longest that vetting waits at the start for the proofs to be read from disk, seconds. Ten thousand take some tenths
/// of a second; a disk that hangs must not hold up vetting, which can ask the registry.
pub const PROOFS_LOADING_SECONDS: u64 = 2;

/// Credentials of pulls held for later vetting of the same repository and namespace.
pub const CREDENTIALS: usize = 1024;

/// Digests tried for an image ID: what the runtime lists as repo digests only suggests, and anybody who can
/// import an image can suggest.
pub const CANDIDATES: usize = 16;

/// Images one call may use: a container's own and its image volumes.
pub const IMAGES_PER_CALL: usize = 64;
/// Largest public key file taken, bytes: an RSA key of 8192 bits is 1,400.
pub const KEY_BYTES: usize = 16 * 1024;

/// Most signatures looked at for one image. Ten are unusual; without a bound anybody who can push to the repository
/// decides how long vetting takes (CVE-2024-29902, CVE-2024-29903).
pub const SIGNATURES: usize = 64;

/// Largest signed payload read, bytes. cosign's are some 300, annotations included a few thousand.
pub const PAYLOAD_BYTES: usize = 64 * 1024;

/// Most documents in one policy set.
pub const POLICY_DOCUMENTS: usize = 20_000;

/// Most image patterns in one policy set, all policies together.
pub const POLICY_PATTERNS: usize = 100_000;

/// Most signers in one requirement. Each signature is tried with each of them.
pub const POLICY_KEYS: usize = 32;

/// Longest scope of a policy, bytes: as OpenShift has it. A policy's name in audit records may have its scope in it.
pub const POLICY_SCOPE_BYTES: usize = 512;

/// Requirements in one list of a containers-policy.json; each is held against each signature.
pub const POLICY_REQUIREMENTS: usize = 16;

/// Files with keys or certificates that a policy set names by path; each is read at each load.
pub const POLICY_KEY_FILES: usize = 1024;

/// Largest such file, bytes. Bundles of certificate authorities have some KiB.
pub const POLICY_KEY_FILE_BYTES: usize = 64 * 1024;

/// Nodes of one policy's requirements: what asks for a signature or an attestation, and what combines others. Each is held
/// against each signature, with each of its signers.
pub const POLICY_NODES: usize = 32;

/// How deep `allOf`, `anyOf` and `atLeast` of one policy may stand in each other. Nobody reads more.
pub const POLICY_DEPTH: usize = 4;

/// In how many ways, told apart by their signers, one node may hold before no more are looked at. Only `atLeast` asks.
pub const POLICY_WAYS: usize = 64;

/// Steps of the search for branches of an `atLeast` that hold by different signers: some milliseconds. Signers that stand
/// in one branch each take a step or two.
pub const POLICY_SEARCH: usize = 4096;

/// Least age that a policy may limit signatures to, seconds: an image is built, signed, and pulled by its pods later.
pub const AGE_LEAST_SECONDS: u64 = 60;

/// Labels that one policy asks a pod for, to be for it. Pods have some ten.
pub const POLICY_LABELS: usize = 16;

/// Image patterns in all exemptions of one policy; each is tried at each of its decisions.
pub const POLICY_EXEMPTIONS: usize = 256;

/// Attestations that one policy asks for; each is looked for among all that an image has.
pub const POLICY_ATTESTATIONS: usize = 16;

/// Repositories that one policy looks for evidence in; each is asked at each cold vetting.
pub const POLICY_PLACES: usize = 4;

/// Evidence about one digest at one place: enough for a signature, a provenance and an SBOM of some MiB; the vetter holds
/// it while it judges.
pub const EVIDENCE_BYTES: usize = 8 * 1024 * 1024;

/// Results of verifying that the vetter remembers, each of a few KiB besides its predicate: some for each of a node's images.
pub const VERIFICATIONS: usize = 2_000;

/// Distinct logs or timestamp authorities that a signer can be asked for; there are two public logs today.
pub const WITNESSES: u8 = 8;

/// Most errors of a policy set that are told at once.
pub const POLICY_ERRORS: usize = 50;

/// Most warnings about a policy set that are told at once.
pub const POLICY_WARNINGS: usize = 200;

/// Largest file of `crivet policy test`, bytes: some hundred for each case.
pub const POLICY_TEST_BYTES: usize = 4 * 1024 * 1024;

/// Most cases in one such file. Each is looked up like an image.
pub const POLICY_TEST_CASES: usize = 10_000;

/// Most repositories that a draft is made from; a node has some hundred.
pub const DRAFT_REPOSITORIES: usize = 10_000;

/// Most policies in a draft: as many as somebody may read.
pub const DRAFT_POLICIES: usize = 1_000;

/// Requests a minute that work nobody waits for may send to one registry host.
pub const BACKGROUND_REQUESTS_PER_MINUTE: u32 = 30;

/// Requests that work nobody waits for may send to one registry host at once, before the minute's count applies.
pub const BACKGROUND_BURST: u32 = 60;

/// Vettings nobody waits for that are under way at once: each may hold a manifest of [`MANIFEST_BYTES`].
pub const BACKGROUND_VETTINGS: usize = 48;

/// Those of them at one registry host: one that hangs holds up no other.
pub const BACKGROUND_VETTINGS_PER_HOST: usize = 2;

/// Requests that work nobody waits for may send to one registry host right after the start, a minute's count. More wait
/// for a moment within [`BACKGROUND_SPREAD_SECONDS`]: nodes start together.
pub const BACKGROUND_AT_START: u32 = BACKGROUND_REQUESTS_PER_MINUTE;

/// Seconds over which nodes that start together spread what they ask in the background.
pub const BACKGROUND_SPREAD_SECONDS: u64 = 120;

/// Longest that one image waits for its turn in the background, seconds. Sixty new images of one registry take six
/// minutes at [`BACKGROUND_REQUESTS_PER_MINUTE`].
pub const BACKGROUND_SECONDS: u64 = 1200;

/// Spans that wait to be sent; more are dropped and counted. A call that is sampled makes some ten.
pub const TRACE_SPANS: usize = 2048;

/// Most spans sent to a collector at once.
pub const TRACE_BATCH: usize = 512;

/// Largest facts of a call that the vetter is asked about, bytes; with [`QUESTIONS`] this bounds what waits for a
/// vetter that hangs. A pod's names and labels have a few KiB.
pub const CALL_FACTS_BYTES: usize = 64 * 1024;

/// Longest line of an audit log that is read, bytes. crivet's own have at most some 300 KiB: every field at its limit,
/// every byte escaped.
pub const REPORT_LINE_BYTES: usize = 512 * 1024;

/// Different findings a report tells apart: image, namespace, policies and reason. Each may hold some KiB of text.
pub const REPORT_FINDINGS: usize = 20_000;

/// Different images, namespaces or policies a report counts by name.
pub const REPORT_NAMES: usize = 20_000;

/// Different images, by namespace and call, of which a report remembers that they were allowed. A finding that finds
/// no room there counts as open.
pub const REPORT_ALLOWED: usize = 500_000;

/// Steps of time a report keeps decisions by; more are joined to longer ones.
pub const REPORT_BARS: usize = 2048;

/// Different policy sets a report tells apart. A set lives for days.
pub const REPORT_POLICY_SETS: usize = 256;
/// Largest file of the node that `crivet node` reads or keeps, bytes: units and configurations are kilobytes.
pub const NODE_FILE_BYTES: usize = 1024 * 1024;

/// Bytes of what a program says that `crivet node` and `crivet doctor` keep. `systemctl show` of a few properties has some hundred.
pub const NODE_PROGRAM_BYTES: usize = 256 * 1024;

/// Longest time a program that `crivet node` runs may take, seconds. Stopping crivet may take 20 (`TimeoutStopSec=`).
pub const NODE_PROGRAM_SECONDS: u64 = 90;

/// Longest time one HTTP request of `crivet node` may take, seconds; all go to the node itself.
pub const NODE_HTTP_SECONDS: u64 = 2;

/// Most steps in the journal of `crivet node`. An installation has some fifteen.
pub const NODE_STEPS: usize = 1000;
/// Longest that a break-glass file may be ahead, seconds: a shift on call. Who needs longer sets `mode: audit`.
pub const BREAK_GLASS_SECONDS: u64 = 12 * 3600;

/// Largest break-glass file read, bytes: a reason and a time.
pub const BREAK_GLASS_BYTES: usize = 4 * 1024;

/// File descriptors the relay asks for: those of [`CONNECTIONS`] clients, its own, and some to spare.
pub const DESCRIPTORS: u64 = 2048;

/// File descriptors of one client connection: its own, and one to each of the runtime's sockets.
pub const CONNECTION_DESCRIPTORS: usize = 3;

/// File descriptors the relay uses for itself: the reserve, the control socket's connections, the vetter, the runtime.
pub const OWN_DESCRIPTORS: usize = 64;

/// File descriptors kept back for when there are none left. Starting a vetter takes some six, a connection to the
/// runtime one.
pub const RESERVED_DESCRIPTORS: usize = 16;

/// Largest sigstore bundle or DSSE envelope read, bytes. Signatures have some 10 KiB; what needs the room is the
/// list of a big image's packages (SBOM).
pub const BUNDLE_BYTES: usize = 4 * 1024 * 1024;

/// Longest of cosign's annotations read, bytes: a chain of certificates, or Rekor's promise with the entry in it, which
/// for attestations may hold the certificate and the whole envelope.
pub const ANNOTATION_BYTES: usize = 256 * 1024;

/// Most transparency log entries with one signature. Real ones have one; 10,000 took five seconds to verify.
pub const LOG_ENTRIES: usize = 32;

/// Most timestamps with one signature. Real ones have one or two.
pub const TIMESTAMPS: usize = 32;

/// Largest RFC 3161 timestamp read, bytes; with its certificates one has some 5 KiB.
pub const TIMESTAMP_BYTES: usize = 64 * 1024;

/// Most hashes in an inclusion proof: a tree of 2^64 entries has no more.
pub const INCLUSION_HASHES: usize = 64;

/// Longest checkpoint read, bytes: some 200 and 150 a signature.
pub const CHECKPOINT_BYTES: usize = 16 * 1024;

/// Largest body of a transparency log's entry, bytes: a hash, a signature and a certificate.
pub const LOG_ENTRY_BYTES: usize = 256 * 1024;

/// Largest certificate read, bytes. Fulcio's have some 1.5 KiB; one with a post-quantum key would have 10.
pub const CERTIFICATE_BYTES: usize = 32 * 1024;

/// Most certificates in a chain. Fulcio's has three.
pub const CHAIN_CERTIFICATES: usize = 10;

/// Most subject alternative names in a certificate. Signers' have one.
pub const CERTIFICATE_NAMES: usize = 32;

/// Longest name or claim in a certificate, bytes: URIs of workflows with their refs.
pub const CERTIFICATE_NAME_BYTES: usize = 4 * 1024;

/// Most signed certificate timestamps in a certificate. Fulcio's have one.
pub const CERTIFICATE_SCTS: usize = 8;

/// Most subjects of an in-toto statement. A build of many artifacts names each.
pub const STATEMENT_SUBJECTS: usize = 1024;

/// Longest regular expression in a policy, bytes.
pub const REGEX_BYTES: usize = 2 * 1024;

/// Largest compiled regular expression in a policy, bytes; a big Unicode class repeated would be megabytes.
pub const REGEX_PROGRAM_BYTES: usize = 256 * 1024;
/// Largest trusted root read, bytes. The public-good one has 7 KiB, GitHub's 31.
pub const TRUSTED_ROOT_BYTES: usize = 1024 * 1024;

/// Most logs, certificate authorities or timestamp authorities in one trusted root, each. GitHub's has 20.
pub const TRUSTED_ROOT_ENTRIES: usize = 128;

/// Most certificates in the chain of one authority. Real chains have one to four.
pub const TRUSTED_ROOT_CHAIN: usize = 10;

/// Longest URL of a transparency log in a trusted root, bytes: messages name it.
pub const LOG_URL_BYTES: usize = 512;

/// Most trusted roots, those of TrustRoot documents among them. Each may be asked for in the background.
pub const TRUST_ROOTS: usize = 32;

/// Largest `root.json` of a TUF repository read, bytes. sigstore's has 6 KiB.
pub const TUF_ROOT_BYTES: usize = 256 * 1024;

/// Largest `timestamp.json` of a TUF repository read, bytes. It names one file.
pub const TUF_TIMESTAMP_BYTES: usize = 16 * 1024;

/// Largest `snapshot.json` of a TUF repository read, bytes. sigstore's has 1 KiB.
pub const TUF_SNAPSHOT_BYTES: usize = 256 * 1024;

/// Largest `targets.json` of a TUF repository read, bytes, or a delegated role's. sigstore's has 6 KiB.
pub const TUF_TARGETS_BYTES: usize = 1024 * 1024;

/// Most changes of a TUF repository's root followed at once. sigstore's had 15 in five years.
pub const TUF_ROTATIONS: u32 = 64;

/// Most roles asked for one target of a TUF repository. A trusted root is a target of the first.
pub const TUF_DELEGATIONS: u32 = 8;

/// Longest that asking a TUF repository may take as a whole, seconds. Nobody waits for it.
pub const TUF_SECONDS: u64 = 120;

/// Largest file with the last good material of one trusted root, bytes: every TUF file at its limit, encoded, would be
/// more; sigstore's need 60 KiB.
pub const TRUST_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Largest repository in a TrustRoot document (`mirrorFS`), unpacked, bytes.
pub const MIRROR_FS_BYTES: usize = 8 * 1024 * 1024;

/// Most files of a repository in a TrustRoot document. sigstore's has some forty, old versions among them.
pub const MIRROR_FS_FILES: usize = 1000;

/// Folders that the configuration names for evidence from OCI layouts.
pub const LAYOUT_FOLDERS: usize = 16;

/// OCI layouts in all those folders together; `cosign save` writes one for each image.
pub const LAYOUTS: usize = 1024;

/// Entries of one folder that are looked at in search of layouts.
pub const LAYOUT_FOLDER_ENTRIES: usize = 4096;

/// Entries of one layout's `index.json`; a mirror of some hundred images with their tags.
pub const LAYOUT_ENTRIES: usize = 4096;

/// Blobs of one layout. An image has some ten.
pub const LAYOUT_BLOBS: usize = 20_000;

/// Bytes read of all layouts at one load: manifests, configs, signatures, attestations; no layers. An image needs some 20
/// KiB, with its SBOM some MiB.
pub const LAYOUT_READ_BYTES: usize = 512 * 1024 * 1024;

/// Bytes held of all layouts: evidence, manifests and configs. As much as of proofs ([`PROOF_BYTES`]).
pub const LAYOUT_HELD_BYTES: usize = 32 * 1024 * 1024;

/// Faults of layouts that are told apart. The last place is for all that find none.
pub const LAYOUT_FAULTS: usize = 256;

/// Shortest interval of a policy's recheck, seconds: with less each container would cost its registry a request.
pub const RECHECK_LEAST_SECONDS: u64 = 1;

/// Longest interval of a policy's recheck, seconds: a week. What is asked more seldom is not held to anything.
pub const RECHECK_MOST_SECONDS: u64 = 7 * 24 * 3600;

/// Longest a container's creation waits for what its tag's recheck needs of the registry, seconds. A registry whose packets
/// are lost costs that much, once in [`RECHECK_RETRY_SECONDS`]; then it counts as down.
pub const RECHECK_SECONDS: u64 = 5;

/// A recheck that failed, or that refuses what runs, is not made again for so long, seconds: some three tries of a kubelet.
pub const RECHECK_RETRY_SECONDS: u64 = 30;

/// Tags of which is remembered what the registry said, or that it did not. A node runs some hundred images.
pub const RECHECKED_TAGS: usize = 4096;

/// Longest an image is hidden from the kubelet so that it is pulled anew, seconds: several tries of a kubelet, which tries
/// again after some ten. Then the pod may not pull (policy Never), or is gone.
pub const HIDDEN_SECONDS: u64 = 60;

/// An image that was hidden is not hidden again for so long, seconds, whatever came of it: what was vetted runs meanwhile.
pub const HIDDEN_REST_SECONDS: u64 = 600;

/// Images hidden, or at rest after that, at once. A node runs some hundred.
pub const HIDDEN_IMAGES: usize = 1024;

/// How long an index, manifest or config that was hashed in the runtime's store counts as whole: pods that start together share
/// it, and who alters it has no longer than between any check and the use.
pub const DOCUMENT_SECONDS: u64 = 1;

/// How long what the kubelet was told of an image's user stands for a question of crivet's own: between it and the container's
/// creation are milliseconds, seconds on a node under load.
pub const USER_ANSWER_SECONDS: u64 = 10;

/// Bytes of a snapshotter's or a runtime's name in the configuration: a path to a shim, at most.
pub const PLUGIN_NAME_BYTES: usize = 256;

/// Names whose answers are kept; of others the runtime is asked.
pub const USER_ANSWERS: usize = 1024;
/// Uses of images on a node that are judged anew after a change of policies: containers, and images by each of their names. A
/// big node has some thousand.
pub const REVETTED: usize = 20_000;

/// Those who use an image alike that one question is asked for: each has a record, and all of their names fit into
/// [`CALL_FACTS_BYTES`].
pub const REVETTED_TOGETHER: usize = 64;

/// Namespaces that a stored image is judged for, one after the other, until a policy covers it.
pub const REVETTED_NAMESPACES: usize = 64;

/// Seconds over which nodes spread the beginning of what they judge anew: they take over a change at one moment.
pub const REVETTING_SPREAD_SECONDS: u64 = 60;

/// Largest file that says by what a node was gone over last, bytes: two hashes and two words.
pub const REVETTED_BYTES: usize = 4 * 1024;

/// Namespaces whose containers wait for the pull of one hidden image, told apart. Those beyond are held up no longer than
/// [`HIDDEN_SECONDS`] by a pull of theirs that fails.
pub const HIDDEN_NAMESPACES: usize = 256;

/// Registries are asked about one tag by so many at once where the first was not let in: each by a login of its own.
pub const RECHECKS_AT_ONCE: usize = 8;

/// Most entries of one layer that are unpacked to be compared with the disk. The largest known layers have some 200,000; one
/// costs some 200 bytes of memory.
pub const LAYER_ENTRIES: u64 = 400_000;

/// Most bytes of names, targets and attributes of one layer's entries. 400,000 names of 100 bytes are 40 MB.
pub const LAYER_NAME_BYTES: u64 = 64 * 1024 * 1024;

/// Largest extension header in a layer's archive, bytes: Go's own limit (`maxSpecialFileSize`). A longer one no runtime unpacks.
pub const LAYER_EXTENSION_BYTES: u64 = 1024 * 1024;

/// Most bytes that one layer may unpack to. The largest layers, with models in them, have some ten GiB; a gzip bomb of 100 MB
/// would have 100.
pub const LAYER_UNPACKED_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// Longest record of what tar-split wrote down of an archive, bytes. Three extension headers of Go's limit before one entry are 4 MiB in
/// base64, and what fills up the end of an archive comes in pieces of 1 MiB.
pub const TAR_SPLIT_LINE_BYTES: u64 = 8 * 1024 * 1024;

/// Most of these records for one layer: two for each of [`LAYER_ENTRIES`], and what fills up the end.
pub const TAR_SPLIT_RECORDS: u64 = 1_000_000;

/// Symbolic links followed on the way to one path in a layer: containerd's own limit.
pub const LAYER_LINKS: usize = 255;

/// Differences between a layer and the disk that are told; all are counted.
pub const LAYER_DIFFERENCES: usize = 16;
/// Longest condition of a policy, bytes. The longest example in docs/conditions.md has some 300.
pub const CONDITION_BYTES: usize = 4 * 1024;

/// Most operands, operators and calls of a condition: each is a value in memory, and a step at each evaluation.
pub const CONDITION_NODES: usize = 512;

/// Greatest depth of a condition, brackets and calls within each other: each is some frames of the stack.
pub const CONDITION_DEPTH: usize = 48;

/// Most loops (`all`, `exists`, `map`, …) of a condition within each other: packages, their licences, and one to spare.
pub const CONDITION_LOOPS: usize = 3;

/// Elements that each list of the evidence is taken to have when a condition's steps are counted at load.
pub const CONDITION_ITEMS: u64 = 1_000;

/// The same for a list within an element of another: all of them together are part of one document.
pub const CONDITION_INNER_ITEMS: u64 = 16;

/// Most steps of a condition by the count at load, of [`CONDITION_ITEMS`].
pub const CONDITION_LOAD_STEPS: u64 = 1_000_000;

/// Most steps of a condition when it is evaluated; a million take a tenth of a second or less. Holding each of the 10,000
/// packages of a big SBOM against an expression takes some five million.
pub const CONDITION_STEPS: u64 = 6_000_000;

/// Longest text held against a regular expression in a condition, bytes: package URLs and licence expressions.
pub const CONDITION_MATCHED_BYTES: usize = 4 * 1024;

/// Largest compiled regular expression in a condition, bytes. It may be held against each package of an SBOM.
pub const CONDITION_REGEX_BYTES: usize = 32 * 1024;

/// Longest text that a condition may make, bytes.
pub const CONDITION_MADE_BYTES: usize = 64 * 1024;

/// Longest policy in Rego, bytes. It is read anew at each evaluation.
pub const REGO_BYTES: usize = 16 * 1024;

/// Brackets and rules of a policy in Rego within each other, all along the way from a rule to the last one that it needs: each
/// is some frames of the stack.
pub const REGO_DEPTH: usize = 48;

/// How often the words of a policy in Rego are read to parse it, all together: regorus may read what is within `[` or `{` three times
/// (as a comprehension, its first statement again, and as a list), and what is within that nine times.
pub const REGO_READINGS: usize = 500_000;

/// Longest that a policy in Rego may take, milliseconds. On 10,000 packages simple ones take some tens.
pub const REGO_MILLISECONDS: u64 = 1_000;

/// Longest text held against a regular expression in Rego, bytes: with the widest expression some tenths of a second.
pub const REGO_MATCHED_BYTES: usize = 16 * 1024;

/// Conditions on one signature or attestation of a policy.
pub const POLICY_CONDITIONS: usize = 16;

/// Longest that an allowance holds that rests on a condition with `now` in it, seconds.
pub const CONDITION_NOW_SECONDS: u64 = 3600;

/// Sets of conditions that are evaluated at once: each may hold the tree of a predicate of [`BUNDLE_BYTES`], some tens of MiB.
pub const CONDITIONS_AT_ONCE: usize = 2;

/// Bytes of predicates in what is remembered of verifying ([`VERIFICATIONS`]): SBOMs have megabytes.
pub const VERIFICATION_BYTES: usize = 32 * 1024 * 1024;

/// Memory for what a check of the node's layers knows of those below the one it is at, bytes. Some 600,000 folders and links.
pub const CONTENT_TREES_BYTES: u64 = 128 * 1024 * 1024;

/// How long a check of the node's layers that was killed keeps what it looked at from being collected, seconds.
pub const CONTENT_LEASE_SECONDS: u64 = 6 * 3600;

/// Layers that are known to be altered. A node has some thousand in all.
pub const CONTENT_ALTERED: usize = 4096;

/// Most characters of what the daemon keeps of an altered layer: a path, what was expected and what was found.
pub const CONTENT_FOUND_CHARS: usize = 600;

/// Layers that a check tells the daemon of at once: one image's. With what was found they have to fit into a frame of the control socket.
pub const CONTENT_TOLD: usize = 200;

/// How far the longest and the shortest of what a policy may ask go back: a check made within so many seconds. The shortest has to
/// leave time for the check of the largest image, and for the kubelet to try again.
pub const CONTENT_WITHIN_LEAST_SECONDS: u64 = 3600;

/// The longest, seconds: 30 days. What is checked more seldom is not watched.
pub const CONTENT_WITHIN_MOST_SECONDS: u64 = 30 * 24 * 3600;

/// Between two checks of an image by crivet-content.timer lies at most so much, seconds: its day, its random delay, and the time
/// the check takes to come to the image.
pub const CONTENT_TIMER_SECONDS: u64 = 48 * 3600;

/// Layers that are known to have been found whole. A node has some thousand; each costs some 200 bytes of memory.
pub const CONTENT_WHOLE: usize = 16_384;

/// Layers of which it is remembered what is below them, as many as can be known to be whole; each costs some 400 bytes of memory.
/// With more, all are asked about anew.
pub const CONTENT_STACKS: usize = CONTENT_WHOLE;

/// How far the clock that is kept on the disk beside these may lag behind, seconds: as much a clock that is put back while the node is
/// off can add to the age that a policy allows.
pub const CONTENT_CLOCK_SECONDS: u64 = 600;

/// Images that wait for a check. A node starts at most a few hundred containers together.
pub const CONTENT_REQUESTS: usize = 256;

/// An image whose check was begun is not requested again for so long, seconds: what cannot be compared is not read again at each try of
/// the kubelet's. One that nobody has asked about for as long waits no more.
pub const CONTENT_REQUEST_SECONDS: u64 = 600;

/// Images that were removed because they were altered, and are not known to be back. A node has some hundred in all.
pub const HEALED_IMAGES: usize = 1000;

/// How long an image that was removed has to have been back before a container is made of it, seconds. Between reading as which
/// user it runs and asking for it the kubelet takes some milliseconds; it tries again every ten seconds or so.
pub const HEALED_SECONDS: u64 = 20;
