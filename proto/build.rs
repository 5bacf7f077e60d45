fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().bytes(".").compile_protos(&["proto/moorhouse.proto"], &["proto"])
}
