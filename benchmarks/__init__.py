"""Benchmarks: what the service costs, as ratios to doing the same by hand in the same run. See docs/performance.md."""
