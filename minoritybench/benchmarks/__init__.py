"""One TOML file a benchmark; see `minoritybench.records.BenchmarkSpec` for the fields."""
