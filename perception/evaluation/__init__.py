"""Protocols that judge frozen backbones, their statistics, and metrics of trained tasks."""
