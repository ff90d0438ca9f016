"""The scheduler in a simulated cluster: workloads, baselines, the real core, measures and their report."""
