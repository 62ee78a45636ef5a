"""Encoders of every modality but graphs, one file each. All obey ``perception.backbones.base.Backbone``."""
