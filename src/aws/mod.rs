//! AWS clients: one `SdkConfig`, endpoint overrides, and plain async functions from domain values to domain values.
