"""Sizes as a person would say them."""
