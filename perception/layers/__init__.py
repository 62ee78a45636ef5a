"""Small torch modules and functions that encoders and pretexts share. They import no framework."""
