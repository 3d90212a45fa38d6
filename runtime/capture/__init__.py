"""Cameras and microphones: what they give, on one clock."""
