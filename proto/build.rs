//! Compiles `voipfleet/v1/*.proto` without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "voipfleet/v1/ruleset.proto",
        "voipfleet/v1/fleet.proto",
        "voipfleet/v1/enrolment.proto",
        "voipfleet/v1/operator.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
