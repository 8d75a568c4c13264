"""The SQL tables, the questions asked of them, and stored files. SQL is the truth."""
