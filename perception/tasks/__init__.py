"""What a backbone is fine-tuned into."""
