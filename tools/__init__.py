"""What only this repository needs: its tables, its pictures, its benchmarks. ``python -m tools.NAME``."""
