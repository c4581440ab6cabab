"""Speed against what a reader would use instead; `python bench/against` or `make bench` runs it."""
