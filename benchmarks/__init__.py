"""Measurements that anyone can repeat. Run from the repository's root: `python -m benchmarks.speed --help`.

`speed`, `cold_start` and `quality` write what they measured to `benchmarks/results/`, each file with the
command, the machine, the versions and the git commit that it was measured with. Nothing in here is installed
with the package.
"""
