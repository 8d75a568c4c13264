"""Generation requests in, completions out. Knows no pages, no jobs, no database."""
