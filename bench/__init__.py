"""Measurements, as ratios against a named floor in the same run. Never part of a test."""
