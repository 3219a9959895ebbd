"""What the engine is measured by: one module for each row of the table in docs/benchmarks.md."""
