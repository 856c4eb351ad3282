"""The resource provider of Pulumi: a codec, a gRPC server and the behaviour behind it, thin over reconcile."""
