//! Clients of SPIRE server's Entry API and of the Workload API from their definitions beside the crate. The compiler
//! of definitions is a crate as well, so nothing has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../protos");
    let files = ["workload.proto", "spire/api/server/entry/v1/entry.proto"];
    let definitions = protox::compile(files, ["../protos"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        // These hold a private key: what cannot be printed does not get into a log.
        .skip_debug([".X509SVID", ".X509SVIDResponse"])
        .compile_fds(definitions)?;
    Ok(())
}
