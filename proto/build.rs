//! Compiles the messages beside it, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/gossip.proto"], ["proto"])?;
    // Contents of batches stay slices of the datagram that they came in.
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
