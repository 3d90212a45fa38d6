"""Spoken questions, and answers read aloud."""
