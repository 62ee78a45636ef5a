"""Sample and batch transforms, and the Preprocess records that make their outcome reproducible."""
