"""Benchmarks, each one command: `python -m bench --help` lists them."""
