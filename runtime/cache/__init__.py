"""What was encoded, on disk, found again by the content of the file."""
