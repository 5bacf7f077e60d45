//! The wire of Moorhouse: generated code of `proto/moorhouse.proto` and nothing else.

tonic::include_proto!("moorhouse.v1");
