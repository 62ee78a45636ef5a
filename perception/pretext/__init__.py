"""Self-supervised pretext heads, one file a method. All obey ``perception.pretext.base.Pretext``."""
