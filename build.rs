//! Generates the wire types from `proto/`, and the table of the CRI fields crivet has heard of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cri = protox::compile(["cri.proto"], ["proto"])?;
    let services = ["containers.proto", "snapshots.proto", "content.proto", "images.proto", "leases.proto"];
    let containerd = protox::compile(services, ["proto/containerd"])?;
    let vetter = protox::compile(["vetter.proto"], ["proto"])?;
    let control = protox::compile(["control.proto"], ["proto"])?;
    let otlp = protox::compile(["otlp.proto"], ["proto"])?;
    let proofs = protox::compile(["proofs.proto"], ["proto"])?;
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("known_fields.rs"), known_fields(&cri))?;
    // What it imports of the private protocol is generated below, over what this leaves of it.
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".crivet.vetter", "crate::vetter::wire")
        .compile_fds(control)?;
    // A credential must not reach a log by way of a debug format.
    let secrets = ["runtime.v1.AuthConfig", "crivet.vetter.Auth", "crivet.vetter.CredentialFile"];
    for set in [cri, containerd, vetter, otlp, proofs] {
        tonic_prost_build::configure()
            .build_server(false)
            .build_transport(false)
            .btree_map(".")
            .bytes(".crivet.vetter")
            .bytes(".crivet.proofs")
            .bytes(".containerd.services.content.v1")
            .extern_path(".containerd.types", "crate::cri::containerd::types")
            .skip_debug(secrets)
            .compile_fds(set)?;
    }
    // After those that import it, and leave an empty file.
    tonic_prost_build::configure().compile_fds(protox::compile(["types.proto"], ["proto/containerd"])?)?;
    Ok(())
}

/// `(message, known number ranges, (field, submessage) pairs)` for every message: declared and reserved numbers.
fn known_fields(set: &prost_types::FileDescriptorSet) -> String {
    let mut table = BTreeMap::new();
    for message in set.file.iter().flat_map(|file| &file.message_type) {
        let mut known: Vec<(i32, i32)> = message.field.iter().map(|f| (f.number(), f.number())).collect();
        known.extend(message.reserved_range.iter().map(|r| (r.start(), r.end() - 1)));
        known.sort_unstable();
        let map_entries: Vec<_> = message.nested_type.iter().map(|n| n.name()).collect();
        let children: Vec<(i32, &str)> = message
            .field
            .iter()
            .filter_map(|f| Some((f.number(), f.type_name.as_deref()?.rsplit('.').next()?)))
            .filter(|(_, child)| !map_entries.contains(child))
            .collect();
        table.insert(message.name().to_owned(), (known, children));
    }
    let mut code = String::from("&[\n");
    for (name, (known, children)) in table {
        let _ = writeln!(code, "({name:?}, &{known:?}, &{children:?}),");
    }
    code + "]\n"
}
