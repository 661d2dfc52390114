//! Makes the client's code from the project's descriptor set, so that no protoc is needed.

use prost::Message;

const DESCRIPTORS: &str = "../../protos/clickstream.binpb";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={DESCRIPTORS}");
    let protos = prost_types::FileDescriptorSet::decode(std::fs::read(DESCRIPTORS)?.as_slice())?;
    tonic_prost_build::configure().build_server(false).compile_fds(protos)?;
    Ok(())
}
