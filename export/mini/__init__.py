"""The miniature: a Video-LLaMA of 5 million weights, trained from scratch on a small audio-visual world."""
