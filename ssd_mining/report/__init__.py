"""Reports: what an analysis found, written to files."""
