"""Sources into images and text, in disposable child processes. Knows no job, no database, no queue."""
