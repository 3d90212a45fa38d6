"""The miniature: a Video-LLaMA of a few million weights, trained from scratch on a small audio-visual world."""
