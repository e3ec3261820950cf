//! Compiles `voipfleet/v1/*.proto` without a system protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "voipfleet/v1/errors.proto",
        "voipfleet/v1/ruleset.proto",
        "voipfleet/v1/source.proto",
        "voipfleet/v1/cluster.proto",
        "voipfleet/v1/expiry.proto",
        "voipfleet/v1/fleet.proto",
        "voipfleet/v1/enrolment.proto",
        "voipfleet/v1/emergency.proto",
        "voipfleet/v1/plan.proto",
        "voipfleet/v1/names.proto",
        "voipfleet/v1/rollout.proto",
        "voipfleet/v1/operator.proto",
        "voipfleet/v1/people.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    let out = std::env::var("OUT_DIR")?;
    let descriptors = compiler.encode_file_descriptor_set();
    std::fs::write(
        Path::new(&out).join("voipfleet.v1.descriptors"),
        descriptors,
    )?;
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
