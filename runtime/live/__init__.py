"""What is seen and heard now, and talk about it."""
