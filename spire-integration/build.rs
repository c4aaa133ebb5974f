//! Clients of the Workload API, the Delegated Identity API and the Broker API from their definitions in `protos/`. The compiler
//! of definitions is a crate as well, so nothing has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=protos");
    let files = [
        "workload.proto",
        "spire/api/agent/delegatedidentity/v1/delegatedidentity.proto",
        "spiffe/broker/api.proto",
    ];
    let definitions = protox::compile(files, ["protos"])?;
    // These hold private keys: what cannot be printed does not get into a log.
    let secret = [
        ".X509SVID",
        ".X509SVIDResponse",
        ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
        ".spire.api.agent.delegatedidentity.v1.SubscribeToX509SVIDsResponse",
        ".spiffe.broker.X509SVID",
        ".spiffe.broker.SubscribeToX509SVIDResponse",
    ];
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .skip_debug(secret)
        .compile_fds(definitions)?;
    Ok(())
}
