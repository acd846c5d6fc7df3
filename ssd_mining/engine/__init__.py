"""Where a kernel runs, and how often."""
